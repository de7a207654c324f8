"""Which settings go together, and how a refusal is worded."""

import pytest
from composed import job, refusal


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("optimizer=adamw optimizer.weight_decay=null", "optimizer.weight_decay must be 0 or more; received None"),
        ("optimizer=lion optimizer.beta_1=0", "optimizer.beta_1 of lion must be greater than 0 and less than 1"),
        ("optimizer=schedulefreeadamw optimizer.beta_1=0.0", "optimizer.beta_1 of schedulefreeadamw must be greater"),
        (
            "optimizer=muon optimizer.exclude_layers=dense",
            "optimizer muon: exclude_layers takes a list of names; received 'dense'",
        ),
        (
            "optimizer=muon optimizer.exclude_layers=[1]",
            "optimizer muon: exclude_layers takes a list of names; received [1]",
        ),
        (
            "optimizer.clipnorm=1 optimizer.clipvalue=1",
            "only one of clipnorm, clipvalue, global_clipnorm may be set; received clipnorm, clipvalue",
        ),
        (
            "schedule=cosine schedule.warmup_epochs=10",
            "schedule.warmup_epochs=10 leaves nothing of training.epochs=10 for the cosine. Allowed: 0 to less than 10",
        ),
        (
            "schedule=piecewise schedule.factors=[1]",
            "schedule.boundaries must rise and schedule.factors have one entry per boundary; received [5.0, 8.0] and",
        ),
        ("schedule=piecewise schedule.boundaries=[8,5]", "schedule.boundaries must rise"),
        ("schedule=exponential schedule.decay_rate=1.5", "schedule.decay_rate=1.5 is not allowed: factor per decay"),
        (
            "experiment=walkthrough expected.metric=error",
            "expected.metric=error is not a metric of a run with data=mnist",
        ),
        (
            "experiment=walkthrough expected.metric=best_val_accuracy",
            "expected.metric=best_val_accuracy is not a metric of a run with data=mnist and data.validation=0. Choices:"
            " test_accuracy, test_error_percent, test_loss",
        ),
        ("experiment=walkthrough expected.mean=null", "expected.mean, tolerance and versions belong together, and"),
        ("experiment=walkthrough expected.tolerance=0", "expected.tolerance=0 is not allowed: largest difference from"),
        ("experiment=walkthrough expected.seeds=[]", "expected.seeds=[] is not allowed: seeds to run, each from 0 to"),
        ("experiment=walkthrough expected.seeds=[1,1]", "expected.seeds=[1, 1] names a seed twice"),
        ("experiment=walkthrough expected.seeds=[-1]", "expected.seeds.0=-1 is not allowed: seeds to run, each from 0"),
        ("experiment=walkthrough +expected.means=1", "unknown key 'expected.means' (did you mean 'expected.mean'?)."),
        ("experiment=walkthrough expected.quick.mean=low", "expected.quick.mean=low is not allowed: expected a number"),
        (
            'experiment=walkthrough expected.quick.overrides=["hydra.launcher=x"]',
            "'hydra.launcher=x' is not allowed: key=value of the experiment itself, such as training.epochs=1, but not",
        ),
        ("training.initial_momentum=0.5", "works only with an optimizer that has momentum. Use optimizer=sgd and"),
        ("training.initial_momentum=0.5 optimizer=sgd", "optimizer.momentum greater than 0."),
        ("training.initial_momentum=0.5 optimizer=sgd ~optimizer.momentum", "optimizer.momentum greater than 0."),
        (
            "training.initial_momentum=0.5 optimizer=sgd optimizer.momentum=0.9 optimizer.nesterov=true",
            "training.initial_momentum and optimizer.nesterov do not go together. Set only one.",
        ),
        (
            "model=layers model.layers=[{SimpleRNN:{units:2,activation:scaled_tanh}}]",
            "layer 'SimpleRNN' is refused with scaled_tanh, which is made of layers behind it; use tanh",
        ),
        ("data.augmentation.shift=-1", "data.augmentation.shift=-1 is not allowed: largest move along each axis, in"),
        ("data.augmentation.elastic=high", "data.augmentation.elastic=high is not allowed: expected a number: size of"),
        ("+data.augmentation.shear=1", "unknown key 'data.augmentation.shear'"),
        ("data.standard_deviation=0", "data.standard_deviation=0 is not allowed: the pixels are then divided by it"),
        ("expected=5", "expected=5 is not allowed: the result expected of a published config, or null: none"),
        ("schedule=one_cycle schedule.warmup_fraction=0", "schedule.warmup_fraction=0 is not allowed: share of all"),
        ("experiment=single_neuron data.shape=[2]", "data.shape.0=2 is not allowed: shape of one input, always [1]"),
        ("experiment=single_neuron data.shape=[1,1]", "data.shape=[1, 1] is not allowed: shape of one input, always"),
        ("experiment=single_neuron model=cnn", "model=cnn needs images, data=linear has inputs of shape [1]"),
        ("experiment=single_neuron model.activation=softmax", "model.activation=softmax of one neuron is constant"),
        (
            "data=digits model=cnn model.filters=[8,8,8,8]",
            "model.filters=[8, 8, 8, 8]: nothing is left of a 8x8 image after convolution 4 (kernel 3, pooling 2,",
        ),
        ("model=layers model.layers=[]", "model.layers=[] is not allowed: Keras layers from input to output"),
        ("model=layers model.layers=[dense]", "model.layers.0: Keras has no layer 'dense' (did you mean 'Dense'?)"),
        ("model=layers model.layers=[Flatten,5]", "model.layers.1: a layer is a name, or one name with its arguments"),
        ("model=layers model.layers=[Dense]", "model.layers.0: layer Dense needs units"),
        ("model=layers model.layers=[{Lambda:{}}]", "layer 'Lambda' is refused: it runs code of its own"),
        ("model=layers model.layers=[Equalization]", "'Equalization' is refused: Keras cannot build it into a network"),
        (
            "model=layers model.layers=[{GaussianNoise:{stddev:1}}]",
            "could not be repeated exactly; these are exact and allowed: Dropout, SpatialDropout1D",
        ),
        (
            "model=layers model.layers=[{Dropout:{rate:1}}]",
            "layer Dropout: rate=1 is not allowed: fraction of values set to zero in training, from 0 up to but not",
        ),
        ("model=layers model.layers=[{SpatialDropout2D:{rate:-1}}]", "layer SpatialDropout2D: rate=-1 is not allowed"),
        (
            "model=layers model.layers=[{SpatialDropout2D:{rate:a}}]",
            "rate takes a number; received 'a'",
        ),
        ("model=layers model.layers=[{Dense:{units:true}}]", "layer Dense: units takes a number; received True"),
        ("model=layers model.layers=[{Dense:{units:[3]}}]", "layer Dense: units takes a number; received [3]"),
        ("model=layers model.layers=[{Dense:{units:null}}]", "layer Dense: units takes a number; received None"),
        (
            "model=layers model.layers=[{Conv2D:{filters:2,kernel_size:[3,true]}}]",
            "layer Conv2D: kernel_size takes a number or a list of numbers; received [3, True]",
        ),
        (
            "model=layers model.layers=[{Dense:{units:2,use_bias:null}}]",
            "layer Dense: use_bias takes true or false; received None",
        ),
        ("model.kernel_initializer={random_normal:{stddev:[1]}}", "random_normal: stddev takes a number; received [1]"),
        ("model=layers model.layers=[{GRU:{units:2,dropout:0.5}}]", "layer 'GRU' is refused with a dropout rate"),
        (
            "model=layers model.layers=[Normalization]",
            "layer 'Normalization' needs mean and variance: it is not adapted to the data; or use BatchNormalization",
        ),
        (
            "model=layers model.layers=[{Resizing:{height:4,width:4,interpolation:bicubic}}]",
            "layer Resizing: interpolation='bicubic' is refused: XLA cannot compile it; choices: bilinear, nearest",
        ),
        ("model=layers model.layers=[{Resizing:{height:4,width:4,antialias:true}}]", "antialias=True is refused"),
        (
            "model=layers model.layers=[Residual]",
            "model.layers.0: Residual takes a list of layers, at least one: {Residual: [layers]}; received 'Residual'",
        ),
        ("model=layers model.layers=[{Residual:[]}]", "received {'Residual': []}"),
        ("model=layers model.layers=[{Residual:{layers:[Flatten]}}]", "Residual takes a list of layers"),
        (
            "model=layers model.layers=[{Residual:[{Residual:[Lambda]}]}]",
            "'Lambda' is refused: it runs code of its own",
        ),
        ("model=layers model.layers=[residual]", "has no layer 'residual' (did you mean 'Residual'?)"),
        (
            "model=resnet model.depth=21",
            "model.depth: 21 is not allowed: layers with weights, 6 n + 2: 8, 14, 20, 26, 32, 38, 44, 50, 56 or more."
            " Near it are 20 and 26",
        ),
        ("model=resnet model.depth=2", "Near it are 8 and 14"),
        (
            "model=resnet data=linear training.loss=mean_squared_error",
            "model=resnet needs images, data=linear has inputs of shape [1]. Use model=mlp",
        ),
        ("model=layers model.layers=[{Dense:{units:2,name:a}}]", "layer Dense has no argument 'name'"),
        ("model=layers model.layers=[{Dense:{units:2,bias_constraint:1}}]", "a constraint is a name, or one name"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: str, message: str) -> None:
    found = refusal(*overrides.split())
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "overrides",
    [
        "optimizer=adam optimizer.weight_decay=null",
        "optimizer=adamw optimizer.weight_decay=0",
        "optimizer=muon optimizer.weight_decay=null",
        "optimizer=muon optimizer.exclude_layers=[dense]",
        "schedule=piecewise training.epochs=2",
        "schedule=cosine schedule.warmup_epochs=0 training.epochs=1",
        "schedule=cosine schedule.warmup_epochs=9.5",
        "model=layers model.layers=[{Dropout:{rate:0}}]",
        "model.kernel_regularizer=l2",
        "model.kernel_regularizer={l2:null}",
        "training.batch_size=55000",
        "data.limit=60000",
        "training.initial_momentum=0.5 optimizer=sgd optimizer.momentum=0.9 ~optimizer.nesterov",
    ],
)
def test_what_makes_sense_is_accepted(overrides: str) -> None:
    assert job(*overrides.split())


def test_two_mistakes_are_two_lines() -> None:
    message = refusal("model.dropout=2", "training.epochs=0")
    assert [line.partition(" ")[0] for line in message.split("\n")] == ["model.dropout=2", "training.epochs=0"]
