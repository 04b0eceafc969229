"""One decoder process at a time, and what becomes of an image that ends it.

The verdict, when a child dies or runs out of memory: if the image was the child's first, it is the image's; else the child
may have carried something over from earlier images, or was shot by somebody else, so the image is tried once more as the
first of a new child. A stall is believed at once: trying again would double the price of the dearest failure. The images
behind it were not answered and are sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from geobatch.image.config import DecodeConfig
from geobatch.image.process import Answer, Child


class Sandbox:
    """Decodes images in a child process, which starts with the first image and is replaced when it dies.

    Not for two threads at once.
    """

    def __init__(self, config: DecodeConfig) -> None:
        self._config = config
        self._child: Child | None = None

    def decode(self, images: Sequence[memoryview], meanwhile: Callable[[int], object]) -> list[Answer]:
        """One answer for each image, in order.

        Args:
            images: encoded bytes.
            meanwhile: called with an image's position once it was sent, while the child is at work on it; again if it is
                sent again.

        Raises:
            UserError: a plugin does not import.
            MachineError: no child can be started.
        """
        answers: list[Answer] = []
        try:
            while len(answers) < len(images):
                self._child = self._child or Child(self._config)
                fate = self._child.exchange(images, answers, meanwhile)
                if self._child.retires or fate:
                    fresh = self._child.answered == 0
                    self.close()
                    if fate and (fresh or fate.reason == "timeout"):
                        answers.append(fate)
        except BaseException:
            self.close()  # unread answers would be taken for those of the next batch
            raise
        return answers

    def close(self) -> None:
        """Ends the child; the next image starts another."""
        if self._child:
            self._child.end()
            self._child = None
