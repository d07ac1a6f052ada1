"""Many pictures on one machine or a cluster, by Ray Data; see `fastfcs.batch.run`.

The package needs Ray, pyarrow and fsspec: the extra ``batch``.
"""
