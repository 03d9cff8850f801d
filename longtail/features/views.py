"""The Feast entities, views and services over the snapshot files, made from the feature definitions.

`feature_repo/` applies them; a laptop's online store is made from them without a repository.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Int64

from longtail.features.definitions import ITEM_SNAPSHOT, USER_CATEGORY_SNAPSHOT, USER_SNAPSHOT
from longtail.features.offline import (
    CATEGORIES,
    CREATED,
    EVENT_TIME,
    ITEM_FILE,
    ONLINE_FILE,
    ROW,
    USER_CATEGORY_FILE,
    USER_FILE,
    list_column,
)

# A snapshot holds counts of all time: an old one is still the best that is known of someone who stayed away.
TTL = timedelta(days=3650)

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="a pseudonymous person")
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="an item of the catalogue")


def _view(
    name: str, entity: Entity, folder: Path, file: str, fields: list[Field], description: str, online: bool = False
) -> FeatureView:
    source = FileSource(
        name=name.replace("_daily", "") + "_snapshots", path=str(folder.resolve() / file), timestamp_field=EVENT_TIME,
        created_timestamp_column=CREATED,
    )  # fmt: skip
    return FeatureView(
        name=name, entities=[entity], ttl=TTL, schema=fields, source=source, online=online, description=description
    )


def feature_views(folder: Path) -> tuple[FeatureView, FeatureView, FeatureView, FeatureView]:
    """`item_daily`, `user_daily`, `user_category_daily` and `user_online` over the snapshot files of a folder."""
    lists = {CATEGORIES: "category codes with an interaction, ascending"}
    lists |= {list_column(name): f"{meaning}, in the order of {CATEGORIES}"
              for name, meaning in USER_CATEGORY_SNAPSHOT.items()}  # fmt: skip
    return (
        _view("item_daily", item, folder, ITEM_FILE,
              [Field(name=n, dtype=Int64, description=m) for n, m in ITEM_SNAPSHOT.items()],
              "what people did with an item before the stamp"),
        _view("user_daily", user, folder, USER_FILE,
              [Field(name=n, dtype=Int64, description=m) for n, m in USER_SNAPSHOT.items()],
              "what a user did before the stamp"),
        _view("user_category_daily", user, folder, USER_CATEGORY_FILE,
              [Field(name=n, dtype=Array(Int64), description=m) for n, m in lists.items()],
              "what a user did per category before the stamp, one list per column"),
        # One value per person: Feast writes and reads value by value, and 28 of them took 28 times as long.
        _view("user_online", user, folder, ONLINE_FILE,
              [Field(name=ROW, dtype=Array(Int64), description="user_daily, then the lists of user_category_daily")],
              "what a request reads of a user, in one list", online=True),
    )  # fmt: skip


def feature_services(
    views: tuple[FeatureView, FeatureView, FeatureView, FeatureView],
) -> tuple[FeatureService, FeatureService, FeatureService]:
    """`recommender_user` is what a request reads online; `training_user` and `recommender_item` are read as a whole."""
    items, users, categories, online = views
    return (
        FeatureService(name="recommender_user", features=[online],
                       description="features of the person a request is for"),
        FeatureService(name="training_user", features=[users, categories],
                       description="the same by name, joined to requests of the past"),
        FeatureService(name="recommender_item", features=[items], description="features of every candidate"),
    )  # fmt: skip
