"""The machines that ship, one file each. Adding one is adding its file and its name here."""

from importlib.resources import files

from collector.phases.machine_file import read

NAMES = (
    "critical_period",
    "critical_period_of_layers",
    "intervention_removal",
    "liu_gurevych",
    "local_complexity",
    "reconstruction",
    "edge_of_stability",
    "break_even",
    "gradient_subspace",
    "plateau",
    "loss_spike",
    "grokking",
    "plasticity_generalisation",
    "plasticity_optimisation",
    "dormant_units",
)

MACHINES = tuple(read(f"{name}.toml", (files(__name__) / f"{name}.toml").read_text("utf-8")) for name in NAMES)
