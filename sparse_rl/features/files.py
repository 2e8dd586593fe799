"""A ranking on disk: all columns as CSV, and the picture."""

import csv
import io
from pathlib import Path

import numpy as np

from sparse_rl.features.picture import ranking_picture
from sparse_rl.features.ranking import FeatureRanking
from sparse_rl.storage import write_atomically

NAME = "features"


def save_ranking(ranking: FeatureRanking, folder: Path, title: str, name: str = NAME) -> tuple[Path, Path]:
    """
    Write ``features.csv``, a line for each feature in the order of the observation, and ``features.png``.

    :param ranking: the ranking
    :param folder: where to put them; it is made if need be, and files that are there already are replaced
    :param title: title of the picture
    :param name: another name of the files, without ``.csv`` and ``.png``
    :return: the two files
    :raises OSError: if a file cannot be written
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = as_csv(ranking)
    picture = ranking_picture(ranking, title)
    table, image = (folder / f"{name}{ending}" for ending in (".csv", ".png"))
    write_atomically(table, lambda file: file.write(text.encode("utf-8")))
    write_atomically(image, lambda file: picture.savefig(file, format="png", dpi=110))
    return table, image


def as_csv(ranking: FeatureRanking) -> str:
    """
    Give all columns as CSV; what was not measured is empty.

    :param ranking: the ranking
    :return: the text
    """
    columns = ranking.columns()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        writer.writerow(
            ("" if np.isnan(value) else f"{value:.6g}") if isinstance(value, float) else value for value in row
        )
    return text.getvalue()
