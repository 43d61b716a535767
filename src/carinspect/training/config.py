"""The `train` section of params.yaml, the hardware profiles, and the recipe that is built from both."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from carinspect.core.errors import did_you_mean
from carinspect.core.params import Number, Section
from carinspect.core.questions import Question, by_name, check_questions
from carinspect.model.config import ModelRecipe

Precision = Literal["fp32", "bf16", "fp16"]


class AugmentParams(Section):
    """How training photos are augmented; 0 switches a change off at no cost. Within the allowed ranges a photo's labels stay true."""

    flip: Number = Field(ge=0, le=1)
    """Probability of a mirror image."""
    crop: Number = Field(ge=0, le=1)
    """Probability of a crop, resized back."""
    crop_min_area: Number = Field(ge=0.5, le=1)
    """Smallest share of the photo that a crop keeps; a small crop can lose the dent that was annotated."""
    rotate_degrees: Number = Field(ge=0, le=45)
    """Largest rotation, either way."""
    perspective: Number = Field(ge=0, le=0.05)
    """Spread (standard deviation) of how far the corners move inwards, as a share of the side."""
    brightness: Number = Field(ge=0, lt=1)
    """Largest relative change."""
    contrast: Number = Field(ge=0, lt=1)
    """Largest relative change."""
    saturation: Number = Field(ge=0, le=1)
    """Largest relative change."""
    hue: Number = Field(ge=0, le=0.1)
    """Largest turn of the colour wheel, either way, as a share of it; a large turn could make mud look like paint."""
    grey: Number = Field(ge=0, le=1)
    """Probability of a grey photo, useful where sources differ in colour."""
    shadow: Number = Field(ge=0, le=1)
    """Probability of a soft shadow across the photo."""
    flare: Number = Field(ge=0, le=1)
    """Probability of a low sun in the lens."""
    blur: Number = Field(ge=0, le=1)
    """Probability of a slight defocus or shake."""
    noise: Number = Field(ge=0, le=1)
    """Probability of Gaussian noise."""
    compression: Number = Field(ge=0, le=1)
    """Probability of one more JPEG encoding."""
    compression_min_quality: int = Field(ge=20, le=95)
    """Of that encoding; drawn between this and 95."""
    erase: Number = Field(ge=0, le=1)
    """Probability of a grey hole."""
    erase_max_area: Number = Field(gt=0, le=0.05)
    """Largest share of the photo that the hole covers; a larger hole could hide the dent that was annotated."""
    rain: Number = Field(ge=0, le=1)
    """Probability of simulated rain on a photo whose weather is clear or unknown; `fog` and `snow` are the same."""
    fog: Number = Field(ge=0, le=1)
    snow: Number = Field(ge=0, le=1)
    weather_sure_from: Number = Field(ge=0, le=1)
    """Strength, drawn from 0..1, from which simulated weather becomes the label of a clear photo; below it the label is unknown."""

    @property
    def simulates_weather(self) -> bool:
        """Whether any photo gets rain, fog or snow."""
        return self.rain + self.fog + self.snow > 0

    @model_validator(mode="after")
    def _weathers_share_one_draw(self) -> "AugmentParams":
        total = self.rain + self.fog + self.snow
        if total > 1:
            raise ValueError(f"rain, fog and snow sum to {total:g}. A photo gets one weather: keep their sum at 1 or below.")
        return self


class TrackingParams(Section):
    """Where a run is shown. It does not change the result, and DVC does not track it."""

    wandb: bool
    """Weights & Biases beside TensorBoard."""
    wandb_project: str = Field(min_length=1)


class LossKnobs(Section):
    """The loss of one question."""

    loss: str
    """`core.questions.LOSSES`; docs/learning.md has the formulas."""
    weight: Number
    """Weight of this loss in the total loss."""


class TrainKnobs(Section):
    """The fields that both `TrainParams` and `TrainRecipe` have."""

    seed: int
    sampler: Literal["none", "weighted", "oversample"]
    """How often a photo is drawn in an epoch, by its label of `sampler_question`; the rates are in `training.balance`."""
    sampler_question: str
    """Name of a binary question."""
    oversample_ratio: Number = Field(gt=0, le=1)
    """For `oversample`: draws of the rarer class for each photo of the more common one."""
    focal_gamma: Number = Field(ge=0)
    """For the focal loss: how much less an easy photo counts; 0 gives the cross-entropy."""
    focal_alpha: list[Number] | None
    """For the focal loss: weights of class 0 and class 1; None uses `class_weights`."""
    label_smoothing: Number = Field(ge=0, lt=1)
    """Share of a label's weight that is spread over all classes, in the cross-entropies."""
    class_weights: Literal["none", "auto"] | dict[str, list[Number]]
    """`auto`: inverse class frequency in the split train. Or a list for each question with weights, one number for each class."""
    loss_weighting: Literal["fixed", "uncertainty"]
    """`fixed`: the loss weights of the questions are constant; `uncertainty`: they are the start values of learnt weights."""
    optimiser: Literal["adamw", "sgd"]
    momentum: Number = Field(ge=0, lt=1)
    """For sgd: Nesterov momentum."""
    layer_decay: Number = Field(gt=0, le=1)
    """Factor of the learning rate from each layer of the backbone to the one before it; 1 gives all layers the same rate."""
    freeze_backbone_epochs: int = Field(ge=0)
    """Number of first epochs in which only the new layers learn."""
    schedule: Literal["cosine", "plateau"]
    """After the warm-up: along a cosine to 0, or times `plateau_factor` when the validation score stops rising."""
    warmup_fraction: Number = Field(ge=0, lt=1)
    """Share of all steps over which the rate rises from 0."""
    plateau_factor: Number = Field(gt=0, lt=1)
    plateau_epochs: int = Field(ge=1)
    """Epochs without a better validation score after which the rate falls."""
    weight_decay: Number = Field(ge=0)
    """Applied to weight matrices only, not to biases and normalisation layers."""
    grad_clip_norm: Number = Field(gt=0)
    """Largest norm of the gradient of one effective batch."""
    ema_decay: Number = Field(ge=0, lt=1)
    """Decay of the moving average of the weights; the average is validated and kept. 0 keeps the weights themselves."""
    early_stop_epochs: int = Field(ge=0)
    """Stop after this many epochs without a better validation score; 0 never stops early."""
    on_nonfinite: Literal["stop", "skip"]
    """On a loss or gradient that is not finite: stop the run, or drop the step and count it."""
    augment: AugmentParams

    @field_validator("class_weights", mode="before")
    @classmethod
    def _a_word_or_lists(cls, weights: Any) -> Any:
        if weights not in ("none", "auto") and (not isinstance(weights, dict) or not weights):
            raise ValueError(f"has the value {weights!r}. Give none, auto, or lists: {{clean: [1.0, 2.0]}}, one number a class.")
        return weights

    @model_validator(mode="after")
    def _classes_are_balanced_once(self) -> Self:
        for name, weights, off in (("class_weights", self.class_weights, "none"), ("focal_alpha", self.focal_alpha, None)):
            if self.sampler != "none" and weights != off:
                raise ValueError(
                    f"sampler '{self.sampler}' and {name} {weights!r} both balance the classes. "
                    f"Set train.sampler: none, or train.{name}: {off or 'null'}."
                )
        if self.focal_alpha is not None and self.class_weights != "none":
            raise ValueError(
                f"focal_alpha {self.focal_alpha} and class_weights {self.class_weights!r} both give weights to classes. "
                "Set train.focal_alpha: null, or train.class_weights: none."
            )
        return self


class TrainParams(TrainKnobs):
    """The section as a person writes it; None takes the value of the profile."""

    batch_size: int | None = Field(ge=1)
    accumulate_steps: int | None = Field(ge=1)
    norm_batch_size: int | None = Field(ge=1)
    image_side_px: int | None = Field(ge=32)
    precision: Precision | None
    epochs: int | None = Field(ge=1)
    lr: Number | None = Field(gt=0)
    backbone_lr_factor: Number | None = Field(ge=0)
    freeze_norm: bool | None
    resume: str | None
    """Path of a checkpoint whose weights this training starts from; None starts as `model.pretrained` says."""

    @field_validator("precision", mode="before")
    @classmethod
    def _auto_is_the_profiles(cls, precision: Any) -> Any:
        # The profile decides, not the GPU: precision changes the result, and the result must not depend on the machine that was free.
        return None if precision == "auto" else precision


class ProfileKnobs(Section):
    """The fields of the training that a profile states and `TrainParams` may replace."""

    batch_size: int = Field(ge=1)
    """Photos in one forward and backward pass, over all processes together."""
    accumulate_steps: int = Field(ge=1)
    """Passes for each step; times `batch_size` this gives the effective batch."""
    norm_batch_size: int = Field(ge=1)
    """Photos that batch normalisation sees together: the micro-batch. It does not depend on the number of GPUs, so one, two or three
    processes compute the same result."""
    image_side_px: int = Field(ge=32)
    """Side of the square that every photo is resized to."""
    precision: Precision
    epochs: int = Field(ge=1)
    lr: Number = Field(gt=0)
    """Highest learning rate, for one step on the effective batch."""
    backbone_lr_factor: Number = Field(ge=0)
    """The backbone's learning rate is `lr` times this; 0 freezes it, batch-norm statistics included."""
    freeze_norm: bool
    """Keep the batch-norm statistics of the weights that training starts from, also where the backbone learns."""


class ProfileRecipe(ProfileKnobs):
    """The part of a profile that changes the result."""

    backbone: str
    """Name of a timm model."""
    pretrained: bool
    """True takes its weights from timm's hub, unless `model.pretrained` names a file; False trains from scratch."""


class Runtime(Section):
    """The part of a profile that does not change the result; DVC does not track it."""

    device: Literal["auto", "cpu", "cuda"]
    processes: int | Literal["auto"]
    """Training processes: one for each GPU, or for each share of the CPU cores."""
    workers: int | Literal["auto"]
    """Loader processes of each training process; 0 loads in the training process itself."""
    compile: bool
    """torch.compile the network."""
    pin_memory: bool | Literal["auto"]
    micro_batch: int | Literal["auto", "norm"]
    """Most photos in one forward pass. `norm`: `norm_batch_size`, and fewer only after memory ran out; `auto`: found by a trial pass at the
    start. Fewer than `norm_batch_size` change what batch normalisation sees."""
    checkpoint_steps: int = Field(ge=0)
    """Steps between two saved states inside an epoch; 0 saves only at the end of each epoch."""

    @field_validator("micro_batch")
    @classmethod
    def _at_least_one_photo(cls, size: int | str) -> int | str:
        if isinstance(size, int) and size < 1:
            raise ValueError(f"has the value {size}. Give a number of photos, norm or auto.")
        return size


class Profile(Section):
    """The settings for one kind of machine."""

    recipe: ProfileRecipe
    runtime: Runtime


class TrainRecipe(TrainKnobs, ProfileKnobs):
    """The values that the training uses."""

    losses: dict[str, LossKnobs]
    """By question."""
    resume: str
    """`none` or `sha256:<digest of the checkpoint>`."""

    @property
    def effective_batch_size(self) -> int:
        """Photos in one step of the optimiser."""
        return self.batch_size * self.accumulate_steps

    @model_validator(mode="after")
    def _norm_batch_divides_batch(self) -> "TrainRecipe":
        if self.batch_size % self.norm_batch_size:
            # The nearest divisor, so that the message gives a value that works.
            fits = max(size for size in range(1, self.norm_batch_size + 1) if self.batch_size % size == 0)
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of norm_batch_size {self.norm_batch_size}. "
                f"Set train.norm_batch_size, to {fits} for example."
            )
        return self


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Recipe(Section):
    """Everything that the result of a training depends on, besides the data and the code."""

    questions: Annotated[tuple[Question, ...], BeforeValidator(_to_tuple)]
    model: ModelRecipe
    train: TrainRecipe

    @model_validator(mode="after")
    def _weights_come_from_one_place(self) -> Self:
        if self.train.resume != "none" and self.model.pretrained != "none":
            raise ValueError("train.resume and model.pretrained both say which weights to begin with. Set model.pretrained: false.")
        return self

    @model_validator(mode="after")
    def _knobs_name_questions(self) -> Self:
        asked, train = by_name(check_questions(self.questions)), self.train
        binary = [name for name, question in asked.items() if question.kind == "binary"]
        if train.sampler != "none" and train.sampler_question not in binary:
            raise ValueError(
                f"train.sampler_question '{train.sampler_question}' is no binary question. {did_you_mean(train.sampler_question, binary)} "
                "Or set train.sampler: none."
            )
        if train.focal_alpha is not None:
            if not any(knobs.loss == "focal" for knobs in train.losses.values()):
                raise ValueError(
                    f"train.focal_alpha {train.focal_alpha} belongs to a question with loss: focal, and none has it. Set it to null."
                )
            _check_class_weights("train.focal_alpha", train.focal_alpha, classes=2)
        for name, weights in train.class_weights.items() if isinstance(train.class_weights, dict) else ():
            with_classes = [other for other, question in asked.items() if question.has_classes]
            if name not in with_classes:
                raise ValueError(f"train.class_weights: '{name}' has no classes. {did_you_mean(name, with_classes)}")
            _check_class_weights(f"train.class_weights.{name}", weights, classes=len(asked[name].classes))
        return self


def _check_class_weights(key: str, weights: list[float], *, classes: int) -> None:
    if len(weights) != classes or not all(0 < weight < math.inf for weight in weights):
        raise ValueError(f"{key} has the value {weights}. Give {classes} numbers above 0.")
