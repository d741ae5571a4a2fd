"""Every error that a user can cause or meet.

    CascadeDistillError         one sentence: what, the value seen, what to do
    +-- ConfigError             a setting is missing, unknown or out of range
    +-- InputError              a traffic file, data set or record cannot be used
    +-- StoreError              a trace store cannot be read or written
    +-- TierError               a model did not answer (endpoint down, refused, malformed)
    +-- BudgetExceeded          the next flagship request would pass the run's budget
    +-- StageError              a stage failed or its records are incomplete
    +-- RegistryError           an alias or version is missing or damaged
    |   +-- PromotionConflict   another version was promoted meanwhile
    +-- RolloutError            a fleet could not be brought to a new version; the old one serves

The command line prints the message of any of these on one line and exits with status 2.
"""


class CascadeDistillError(Exception):
    """Base of all errors that carry a message for the user."""


class ConfigError(CascadeDistillError):
    """A setting is missing, unknown or out of range."""


class InputError(CascadeDistillError):
    """A traffic file, data set or record cannot be used."""


class StoreError(CascadeDistillError):
    """A trace store cannot be read or written: damaged, made by a newer version, or always busy."""


class TierError(CascadeDistillError):
    """A model did not answer: endpoint down, request refused, or a malformed reply."""


class BudgetExceeded(CascadeDistillError):  # noqa: N818 - it says what happened
    """The next flagship request would pass the run's budget."""


class StageError(CascadeDistillError):
    """A stage failed or its records are incomplete."""


class RegistryError(CascadeDistillError):
    """An alias or version is missing or damaged."""


class PromotionConflict(RegistryError):  # noqa: N818 - it says what happened
    """Another version became champion between the measurement and the promotion."""


class RolloutError(CascadeDistillError):
    """A fleet could not be brought to a new version; the old one keeps serving."""
