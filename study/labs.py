"""The datasets of the study, and the settings with which their runs are trained.

Settings were chosen on the validation split with one seed: those of the dense model
first, then the weights of the penalties so that they span the sparsities of pruning.
"""

from study.plan import Lab

_SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)

LABS = {
    lab.name: lab
    for lab in (
        Lab(
            name="mnist1d",
            binary="train_resnet50",
            settings={"dataset": "mnist1d"},
            sparsities=_SPARSITIES,
            kl_weights=(3e-5, 7e-5, 1.5e-4, 3e-4, 8e-4, 2e-3),
            l0_weights=(1e-3, 1.7e-3, 2.5e-3, 4e-3, 7e-3, 1.5e-2),
            alone=_SPARSITIES,
            first_dense=_SPARSITIES,
            in_full=True,
            contenders=(0.8, 0.9, 0.95, 0.98),
            tried=53,
        ),
        Lab(
            name="digits",
            binary="train_resnet50",
            settings={"dataset": "digits", "depth": "18", "width": "0.125"},
            sparsities=(0.8, 0.9, 0.95),
            kl_weights=(1e-5, 2.5e-5, 5e-5),
            l0_weights=(1e-2, 1e-1),
            alone=(0.9,),
            first_dense=(0.9,),
            # Some of what is compared is so at one point alone.
            seeds=5,
            tried=4,
            chosen="Weight decay, begin and end of the ramp were chosen for ResNet-50 "
            "at 90 %, in that order, each by the average validation accuracy of the "
            "runs in [digits_schedule.csv](assets/study/digits_schedule.csv) that "
            "have what was chosen before.",
        ),
        Lab(
            name="numbers",
            binary="train_transformer",
            settings={
                "dataset": "numbers",
                "train_steps": "400",
                "eval_steps": "400",
                "warmup_steps": "120",
                "tokens_per_replica": "1024",
                "beams": "1",
            },
            sparsities=(0.8, 0.9, 0.95),
            kl_weights=(3e-5, 1e-4, 3e-4),
            l0_weights=(1e-4, 3e-4, 1e-3),
            alone=(0.9,),
            seeds=5,
            tried=5,
        ),
    )
}
