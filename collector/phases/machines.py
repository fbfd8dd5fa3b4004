"""The machines that ship. Adding one is adding it to ``MACHINES``.

Each run risks the sum of its machine's alphas, so a turn into the costly claim gets its share.
"""

from collector.phases.machine import Machine, Phase, Turn

CRITICAL_PERIOD = Machine(
    name="critical_period",
    quantity="fisher_trace",
    value_scale="log",
    step_scale="linear",
    phases=(
        Phase(name="early", meaning="The trace of the Fisher information has not risen yet."),
        Phase(
            name="critical_period",
            meaning="The network takes up information fast; deficits in the data now leave permanent damage.",
        ),
        Phase(
            name="after_critical_period",
            meaning="The trace has peaked and declines: what was learned consolidates and new data changes little.",
        ),
    ),
    turns=(
        Turn(
            from_phase="early",
            to_phase="critical_period",
            when="rise",
            alpha=0.005,
            min_effect=0.10,
            advice="Critical period: keep augmentation, curriculum and data quality as they are until it ends.",
        ),
        # Too early drops the protection inside the window, for good; too late wastes compute only.
        Turn(
            from_phase="critical_period",
            to_phase="after_critical_period",
            when="fall",
            alpha=0.005,
            min_effect=0.05,
            severity="warning",
            advice=(
                "Critical period ended, safe to remove augmentation, curriculum or early regularisation "
                "that was there to protect it. Keep the checkpoint nearest to the peak."
            ),
            undo=(
                "Restore what was removed. If the trace rises again above its peak, "
                "return to the checkpoint nearest to the peak: the damage of a deficit inside the period is permanent."
            ),
        ),
    ),
)
"""Achille, Rovere, Soatto (ICLR 2019): information rises rapidly in the early phases of training, then decreases.

A trace that declines from the first probe never leaves ``early``: without a rise there is no period to end.
"""

LOCAL_COMPLEXITY = Machine(
    name="local_complexity",
    quantity="local_complexity",
    value_scale="linear",
    step_scale="log",
    phases=(
        Phase(name="initial", meaning="The number of linear regions around the data is as initialised."),
        Phase(
            name="descent",
            meaning="Regions leave the data; this depends on the initialisation and is absent for many.",
            optional=True,
        ),
        Phase(name="ascent", meaning="Regions gather around the data while it is being fitted."),
        Phase(
            name="final_descent",
            meaning="Regions migrate from the data to the decision boundary; precedes delayed generalisation and robustness.",
        ),
    ),
    turns=(
        Turn(from_phase="initial", to_phase="descent", when="fall", alpha=0.002, min_effect=0.10),
        Turn(from_phase="initial", to_phase="ascent", when="rise", alpha=0.002, min_effect=0.10),
        Turn(from_phase="descent", to_phase="ascent", when="rise", alpha=0.002, min_effect=0.10),
        Turn(
            from_phase="ascent",
            to_phase="final_descent",
            when="fall",
            alpha=0.003,
            min_effect=0.10,
            advice=(
                "Region migration has begun: keep training past interpolation and keep checkpoints from here, "
                "delayed generalisation (grokking) or robustness may follow. Evaluate robustness now and later. "
                "A second ascent may still come; a descent with dead units or at a vanishing loss is not migration."
            ),
            undo="Nothing was changed. If the complexity rises again this was not the last peak, and the next one will be told.",
        ),
        Turn(
            from_phase="final_descent",
            to_phase="ascent",
            when="rise",
            alpha=0.001,
            min_effect=0.10,
            advice="The complexity rises again: the last peak was not the final one. Under grokking a second peak is usual.",
        ),
    ),
)
"""Humayun, Balestriero, Baraniuk (2023, arXiv 2310.12977; 2024, arXiv 2402.15555, section 3.1).

The step axis is logarithmic because phases last decades. First descent, final descent or both may
be absent (batch norm, weight decay, some initialisations), and a peak is final only in hindsight.
"""

MACHINES: tuple[Machine, ...] = (CRITICAL_PERIOD, LOCAL_COMPLEXITY)
