"""The local learning coefficient beside devinterp's, where a closed form tells the truth and on a trained network."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from against.curvature import of
from against.peers import Run, deferred, package
from against.timing import Arm, Comparison, Value, compare, relative
from against.workloads import Frozen, digits, loss_fn
from probe_agent.probe_set import ProbeSet
from probe_agent.probes.local_learning_coefficient import LocalLearningCoefficient
from probe_agent.snapshot import LossFn, Snapshot

CHAINS, DRAWS, BURN_IN = 4, 200, 100
RATES = (1e-5, 1e-4, 1e-3)


def learning_coefficients() -> Iterator[Comparison]:
    """Both comparisons."""
    yield regression()
    yield network()


def regression(d: int = 20, n: int = 1000, localisation: float = 1.0) -> Comparison:
    """Least squares at its minimum: ½ Σ h nβ / (h nβ + γ) over the eigenvalues h of the Hessian."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(n, d, generator=generator), torch.randn(n, 1, generator=generator)
    model = nn.Linear(d, 1, bias=False)
    y = x.sum(1, keepdim=True) + noise
    model.weight.data = torch.linalg.lstsq(x, y).solution.T
    curved = torch.linalg.eigvalsh(2 * x.double().T @ x.double() / n) * n / math.log(n)
    truth = float((curved / (curved + localisation)).sum() / 2)

    def step() -> None:
        F.mse_loss(model(x), y).backward()
        model.zero_grad()

    at = Regression(model, x, y, 0)
    arms = _arms(at, F.mse_loss, truth, localisation, RATES)
    return compare(
        "local learning coefficient", f"least squares, d={d}, n={n}, γ=1", "½ Σ h nβ / (h nβ + γ)", arms, step
    )


def network(step: int = 2000, n: int = 512, localisation: float = 100.0) -> Comparison:
    """A network on digits near its minimum."""
    workload = digits(64, 48, 48, 10).train({step})
    at = workload.at(step, n)
    long = LocalLearningCoefficient(localisation=localisation, chains=16, burn_in=1000, draws=2000)
    estimate = next(iter(long.measure(at.snapshot(), {}))).estimate
    arms = _arms(at, loss_fn, estimate.value, localisation, RATES)
    truth = f"16 chains of 2000 draws after 1000, Metropolis–Hastings: {estimate.value:.2f} ± {estimate.stderr:.2f}"
    where = f"{workload.name}, step {step}, B={n}, γ={localisation:g}"
    return compare("local learning coefficient", where, truth, arms, workload.step(slice(n)))


class Regression(Frozen):
    """Least squares in place of a classifier."""

    def snapshot(self) -> Snapshot:
        """With the squared error as its loss."""
        return Snapshot.take(self.model, self.step, ProbeSet(self.x, self.y), F.mse_loss, None, seed=0)


def _arms(at: Frozen, loss: LossFn, truth: float, localisation: float, rates: tuple[float, ...]) -> list[Arm]:
    chains = f"{CHAINS} chains of {DRAWS} after {BURN_IN}"
    alike = LocalLearningCoefficient(localisation=localisation, chains=CHAINS, draws=DRAWS, burn_in=BURN_IN)
    default = LocalLearningCoefficient(localisation=localisation)
    return [
        Arm("ours, as many draws", lambda: of(alike, at), relative(truth), f"{chains}; finds its step size"),
        Arm("ours, at its defaults", lambda: of(default, at), relative(truth), "with standard error and R̂"),
        *(
            Arm(f"devinterp SGLD, ε = {rate:g}", devinterp(at, loss, localisation, rate), relative(truth), chains)
            for rate in rates
        ),
    ]


def devinterp(at: Frozen, loss: LossFn, localisation: float, rate: float) -> Run:
    """Version 1's ``estimate_learning_coeff_with_summary`` on the whole set as one batch."""

    def prepare() -> Run:
        sampler, sgld = package("devinterp.slt.sampler"), package("devinterp.optim").SGLD
        n = len(at.x)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(at.x, at.y), batch_size=n)
        settings = {"lr": rate, "localization": localisation, "nbeta": n / math.log(n)}

        def evaluate(model: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[Tensor]:
            return (loss(model(data[0]), data[1]),)

        def run() -> Value:
            found = sampler.estimate_learning_coeff_with_summary(
                at.own(),
                loader,
                evaluate=evaluate,
                sampling_method=sgld,
                optimizer_kwargs=settings,
                num_draws=DRAWS,
                num_chains=CHAINS,
                num_burnin_steps=BURN_IN,
                seed=0,
                verbose=False,
            )
            return float(found["llc/mean"])

        return run

    return deferred(prepare)
