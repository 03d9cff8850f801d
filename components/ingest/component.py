"""Read raw events, validate them, replace ids by pseudonyms and write an imported shop."""

from kfp import dsl

from components.step import step


@step
def ingest(
    reader: str,
    source: str,
    key_file: str,
    mapping: str,
    max_bad_share: float,
    shop: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """Read raw events, validate them, replace ids by pseudonyms and write an imported shop.

    Args:
        reader: form of the data, such as mapped or online-retail; shop takes an imported shop as it is.
        source: folder or file to read.
        key_file: file with the key of the pseudonyms; empty where the environment holds it.
        mapping: YAML mapping file of the reader mapped, else empty.
        max_bad_share: stop when more than this share of the rows is bad.
        shop: the imported shop: events, items, quarantine and a summary.
        metrics: rows read, kept and left out, users, items.
    """
    import json
    from pathlib import Path

    from longtail import steps

    figures = steps.ingest(reader, source, Path(shop.path), key_file, mapping, max_bad_share)
    metrics.metadata.update({name: value for name, value in figures.items() if isinstance(value, int | float)})
    Path(metrics.path).write_text(json.dumps(figures))  # without the file, kfp reuses no finished step locally
