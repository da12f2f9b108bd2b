from django.db import models


class LogChunk(models.Model):
    """Sealed lines of one instance's log, zstd-compressed. The table is partitioned by day of `sealed_at`.

    A chunk holds the lines behind `first_position` up to and including `last_position`.
    """

    pk = models.CompositePrimaryKey("instance_uid", "first_position", "sealed_at")
    instance_uid = models.CharField(max_length=64)
    first_position = models.BigIntegerField()
    sealed_at = models.DateTimeField()
    last_position = models.BigIntegerField()
    line_count = models.IntegerField()
    data = models.BinaryField()

    class Meta:
        managed = False
        db_table = "deployments_log_chunk"

    def __str__(self) -> str:
        return f"{self.instance_uid} {self.first_position}–{self.last_position}"
