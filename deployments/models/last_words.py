from django.db import models

from deployments.models.instance import Instance


class LastWords(models.Model):
    """The last lines of one run of an instance's program, kept apart from the log: that one expires, and has other runs in it.

    `end` counts the ends of the program in the instance's life; `data` are the lines, zstd-compressed.
    """

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="last_words")
    end = models.PositiveIntegerField()
    at = models.DateTimeField()
    exit_code = models.IntegerField(null=True)
    line_count = models.IntegerField()
    data = models.BinaryField()

    class Meta:
        ordering = ["-end"]
        constraints = [models.UniqueConstraint(fields=["instance", "end"], name="last_words_once_per_end")]

    def __str__(self) -> str:
        return f"{self.instance}, end {self.end}"
