"""How a run is carried out. It may go on with other values: what comes out is the same.

So it is in no flags.txt.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a run is carried out.

    Attributes:
      cpu_devices: of distribution=mirrored: into so many devices the CPU is divided,
        and no GPU is used.
      worker_timeout: of distribution=multi_worker: seconds to wait for workers that
        have not come yet.
      strict_data: whether a damaged record of the data is an error. By default it is
        left out, counted, and named in the log.
      checkpoint_every_steps: steps from one checkpoint to the next between evaluations;
        by default there are none.
    """

    cpu_devices: int | None = None
    worker_timeout: float = 600.0
    strict_data: bool = False
    checkpoint_every_steps: int | None = None

    def check(self, distribution: str) -> None:
        """Raises ValueError for a value that will not do, naming it.

        Args:
          distribution: of the run.
        """
        if self.cpu_devices is not None:
            if self.cpu_devices < 1:
                raise ValueError(
                    f"cpu_devices must be at least 1. Received: {self.cpu_devices}"
                )
            if distribution != "mirrored":
                raise ValueError(
                    "cpu_devices is for distribution=mirrored. Received: "
                    f"cpu_devices={self.cpu_devices}, distribution={distribution}"
                )
        steps = self.checkpoint_every_steps
        if steps is not None and steps < 1:
            raise ValueError(
                f"checkpoint_every_steps must be at least 1. Received: {steps}"
            )
        if not 0 < self.worker_timeout < math.inf:
            raise ValueError(
                "worker_timeout must be positive and finite. "
                f"Received: {self.worker_timeout}"
            )
