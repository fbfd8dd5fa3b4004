"""Needs: what a probe asks of a training job, so that a person can know before a run what will be measured."""

from enum import Enum


class Need(Enum):
    """What a job may lack, each with a sentence."""

    LIKELIHOOD = "A loss that stands for a distribution of the targets: cross-entropy, also binary, or squared error."
    CLASSES = "A cross-entropy of one tensor of logits and class targets."
    ONE_OUTPUT = "A model that returns one tensor, the inputs along its first axis."
    INDEPENDENT_OUTPUTS = (
        "Outputs that depend on their own input alone and repeat: no batch statistics, no chance in evaluation mode."
    )
    AVERAGING_LOSS = "A loss that is the mean of the losses of groups of inputs, not a sum or a contrast between them."
    REAL_INPUTS = "One tensor of real numbers for an input, or of tokens that an embedding takes in."
    ACTIVATIONS = "Hidden layers with activation functions, as torch modules or functions."
    TRUE_GRADIENTS = "Backward passes that are the derivatives of what they belong to."
    SEVERAL_INPUTS = (
        "A probe batch of four inputs or more, of two classes at least where the quantity is about classes."
    )
    OPTIMIZER = "An optimizer whose update rule is known: SGD without dampening, Adam, AdamW, RMSprop, Adagrad."
    UPDATES = "The optimizer's last two steps: a copy of the parameters is kept around the steps that are due."

    @property
    def label(self) -> str:
        """The lower-case name, such as ``true gradients``."""
        return self.name.lower().replace("_", " ")

    @property
    def sentence(self) -> str:
        """What a person reads."""
        return self.value
