"""What `feast apply` registers: two entities, four views over the snapshot files, three services."""

import os
from pathlib import Path

from longtail.features import views

features = Path(os.environ.get("LONGTAIL_FEATURES", "features"))

user = views.user
item = views.item
item_daily, user_daily, user_category_daily, user_online = views.feature_views(features)
recommender_user, training_user, recommender_item = views.feature_services(
    (item_daily, user_daily, user_category_daily, user_online)
)
