"""Snapshot: the model at one step as probes may see it. Evaluating it leaves no trace in training."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from probe_agent.complaints import said
from probe_agent.deadline import Deadline
from probe_agent.errors import Indivisible, is_refused_memory
from probe_agent.frozen_copy import HALF, copy_of, single, with_own_modules
from probe_agent.interruption import is_interruption
from probe_agent.likelihood import Likelihood, logits_of
from probe_agent.probe_set import Inputs, ProbeSet, arguments, each, tensors_of
from probe_agent.undisturbed import draw_again
from probe_agent.update_rule import UpdateRule

LossFn = Callable[[Any, Tensor], Tensor]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The model at one step: a frozen copy in evaluation mode that belongs to the probes.

    ``params`` are the trainable parameters by name (clones that require grad), the arguments most
    estimators differentiate by. ``model`` holds the same tensors; probes may hook it, and must
    remove what they hook.

    ``precision`` is empty where everything is computed as the model would, else says how it is not.
    ``further_sets`` are other inputs the user gave to compare with, such as "test" and "ood". ``rule``
    is the optimizer's, where one is known. ``fresh`` is for models and losses that write to what they are given: they
    are given copies. With ``logits``, the model returns an object, and what is measured are the logits in it.
    """

    step: int
    model: nn.Module
    params: dict[str, Tensor]
    probe_set: ProbeSet
    loss_fn: LossFn
    likelihood: Likelihood | None
    seed: int
    further_sets: Mapping[str, ProbeSet] = field(default_factory=dict)
    rule: UpdateRule | None = None
    precision: str = ""
    fresh: bool = False
    logits: bool = False
    deadline: Deadline = field(default_factory=Deadline, repr=False, compare=False)
    _shared: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def take(
        cls,
        model: nn.Module,
        step: int,
        probe_set: ProbeSet,
        loss_fn: LossFn,
        likelihood: Likelihood | None,
        seed: int,
        *,
        further_sets: Mapping[str, ProbeSet] | None = None,
        rule: UpdateRule | None = None,
        widen: bool = True,
        fresh: bool = False,
        logits: bool = False,
    ) -> "Snapshot":
        """Copy the model as it is now. The live model is only read.

        Half precision is taken to single unless ``widen`` is false: the weights are the same numbers,
        but what is computed from them is not lost in rounding. ``precision`` then says so.
        """
        frozen = copy_of(model, widen=widen)
        further_sets = further_sets or {}
        precision = ""
        if halves := sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.dtype in HALF}):
            precision = f"{' and '.join(halves)} weights, computed in {'float32' if widen else 'that'}"
            if widen:
                probe_set = widened(probe_set)
                further_sets = {name: widened(further) for name, further in further_sets.items()}
        loss_fn = with_own_modules(loss_fn, widen=widen)
        return cls(
            step=step,
            model=frozen,
            params={name: p for name, p in frozen.named_parameters() if p.requires_grad},
            probe_set=probe_set,
            loss_fn=_on_copies(loss_fn) if fresh else loss_fn,
            likelihood=likelihood,
            seed=seed,
            further_sets=further_sets,
            rule=rule,
            precision=precision,
            fresh=fresh,
            logits=logits,
        )

    def outputs(self, params: Mapping[str, Tensor] | None = None, inputs: Inputs | None = None) -> Any:
        """What the model gives for ``inputs`` (default: the probe set) at ``params`` (default: the snapshot's).

        A model that draws, and a loss that draws after it, draw the same each time the whole probe set is evaluated: what is told
        of two losses is told of two sets of weights. Of parts each draws anew, or what they have in common would be luck.

        Raises:
            Indivisible: the model refuses another number of samples than the probe set has.
        """
        self.deadline.check()
        inputs = self.probe_set.inputs if inputs is None else inputs
        if inputs is self.probe_set.inputs:
            draw_again()
        try:
            return self._given(inputs, params)
        except Exception as error:
            n = len(tensors_of(inputs)[0])
            if n == self.probe_set.n or is_interruption(error) or is_refused_memory(error):
                raise
            raise Indivisible(
                f"Got a model that refuses a batch of {n} where it takes the {self.probe_set.n} samples of the probe set ({said(error)}). What is measured "
                "sample by sample, on groups of samples or on their neighbours needs one that takes any number of them."
            ) from error

    def _given(self, inputs: Inputs, params: Mapping[str, Tensor] | None) -> Any:
        if self.fresh:
            inputs = each(inputs, Tensor.clone)
        args, kwargs = arguments(self.model, inputs)
        if params is None:
            outputs = self.model(*args, **kwargs)
            return logits_of(outputs) if self.logits else outputs
        # Not by tie_weights: of a module that stands in two places torch would not put the weights back.
        aliases = self._aliases()
        every = {alias: p for name, p in params.items() for alias in aliases.get(name, [name])}
        outputs = torch.func.functional_call(self.model, every, args, kwargs, tie_weights=False)
        return logits_of(outputs) if self.logits else outputs

    def _aliases(self) -> dict[str, list[str]]:
        """Where each parameter stands in modules that are not the same: several places for tied weights."""

        def found() -> dict[str, list[str]]:
            names = {id(p): name for name, p in self.model.named_parameters()}
            places: dict[str, list[str]] = {name: [] for name in names.values()}
            for path, module in self.model.named_modules():
                for own, p in module.named_parameters(recurse=False, remove_duplicate=False):
                    places[names[id(p)]].append(f"{path}.{own}" if path else own)
            return places

        return self.once("aliases", found)

    def predictions(self) -> Any:
        """What the model gives on the probe set, without a graph; a tensor is computed once a snapshot, where nothing draws."""
        with torch.no_grad():
            drawn = draw_again()  # then what is drawn by the loss has to come after what is drawn by the model
            if drawn or "predictions" not in self._shared:
                outputs = self.outputs()
                if drawn or not isinstance(outputs, Tensor):
                    return outputs
                self._shared["predictions"] = outputs.clone()  # the model may hand out a buffer of its own
            return self._shared["predictions"].clone()  # the user's loss may work in place

    def loss(
        self, params: Mapping[str, Tensor] | None = None, inputs: Inputs | None = None, targets: Tensor | None = None
    ) -> Tensor:
        """The training loss, a scalar, of ``inputs`` and ``targets`` (default: the probe set)."""
        targets = self.probe_set.targets if targets is None else targets
        return self.loss_fn(self.outputs(params, inputs), targets)

    def loss_of(self, part: ProbeSet, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """The training loss of some of the samples, a scalar.

        Raises:
            Indivisible: there is none without the others. Of in-batch contrasts the targets may be places in the batch.
        """
        try:
            outputs = self.outputs(params, part.inputs)
            if part.n != self.probe_set.n and not self.stands_alone(outputs, part.targets):
                raise IndexError("targets may be places in the whole batch")  # noqa: TRY301 - one way out for all that refuse
            return self.loss_fn(outputs, part.targets)
        except Exception as error:
            if part.n == self.probe_set.n or is_interruption(error) or is_refused_memory(error):
                raise
            if isinstance(error, Indivisible):
                raise
            raise Indivisible(
                f"Got a loss that {part.n} of the {self.probe_set.n} samples alone do not have ({type(error).__name__}: {error}); how it "
                "varies over samples cannot be told. Need one that averages over samples."
            ) from error

    def stands_alone(self, outputs: Any, targets: Tensor) -> bool:
        """Whether the loss may be tried on these of the samples: a GPU is lost to the whole process where a target is beyond the outputs."""
        known = self.likelihood
        if known is not None and isinstance(outputs, Tensor) and known.fits(outputs, targets):
            return True
        return not self.once("targets are places", lambda: self.probe_set.names_places) and (
            known is None
            or not isinstance(outputs, Tensor)
            or not self.once("likelihood fits", lambda: known.fits(self.predictions(), self.probe_set.targets))
        )

    def on(self, split: str) -> "Snapshot":
        """The same snapshot with one of the further sets as its probe set; what `once` keeps there is its own."""
        return self.once(f"on {split}", lambda: replace(self, probe_set=self.further_sets[split]))

    def halved(self, halvings: int, most: int) -> "Snapshot":
        """The same snapshot with the first ``most`` samples of each of its sets halved so often."""
        if not halvings:
            return self

        def fewer(of: ProbeSet) -> ProbeSet:
            return of.halved(halvings, most, self.generator("halving"))

        return self.once(
            f"{most} samples halved {halvings} times",
            lambda: replace(
                self,
                probe_set=fewer(self.probe_set),
                further_sets={split: fewer(of) for split, of in self.further_sets.items()},
            ),
        )

    def of_logits(self) -> "Snapshot":
        """The snapshot as its likelihood sees it: by the logits, also where the loss takes more of what the model returns."""

        def beside_others() -> bool:
            outputs = self.predictions()
            return not isinstance(outputs, Tensor) and logits_of(outputs) is not None

        if self.likelihood is None or not self.once("logits beside others", beside_others):
            return self
        return self.once("of logits", lambda: replace(self, logits=True))

    def views(self) -> Iterator[tuple[dict[str, str], "Snapshot"]]:
        """The snapshot on its probe set, without a label, and on each further set, labelled as its split."""
        yield {}, self
        for split in self.further_sets:
            yield {"split": split}, self.on(split)

    def once(self, key: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, computed by the first probe that asks and kept while the snapshot lives.

        For what several probes need and one has paid for, such as the Fisher draws. The key names the
        computation with all of its settings.
        """
        if key not in self._shared:
            self._shared[key] = make()
        found: T = self._shared[key]
        return found

    def generator(self, purpose: str) -> torch.Generator:
        """A random generator of our own on the probe set's device.

        The same purpose gives the same numbers at every snapshot of a run (common random numbers),
        so that a trend is not made of luck.
        """
        generator = torch.Generator(device=self.probe_set.device)
        # 32 bits of both: a generator on the CPU ignores the rest of its seed.
        generator.manual_seed(zlib.crc32(f"{self.seed} {purpose}".encode()))
        return generator


def widened(probe_set: ProbeSet) -> ProbeSet:
    """The same numbers, half precision taken to single."""
    return ProbeSet(each(probe_set.inputs, single), single(probe_set.targets))


def _on_copies(loss_fn: LossFn) -> LossFn:
    return lambda outputs, targets: loss_fn(
        outputs.clone() if isinstance(outputs, Tensor) else outputs, targets.clone()
    )
