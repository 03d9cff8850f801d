"""A shop whose data ended long ago follows the clicks of today."""

import asyncio
import time

from longtail.features.live import LiveEvent, open_live
from longtail.features.live_shifted import ShiftedLive

SECOND = 1_000_000


def test_what_was_clicked_a_moment_ago_on_the_wall_was_clicked_a_moment_ago_on_the_requests_clock(tmp_path):
    wall = time.time_ns() // 1000
    data_ends = wall - 700 * 24 * 3600 * SECOND
    events = [
        LiveEvent("before", "u", "i1", "click", wall - 5 * SECOND),
        LiveEvent("after", "u", "i2", "purchase", wall + 2 * SECOND),
    ]

    async def go():
        writer = open_live(f"sqlite://{tmp_path}/live.db", writer=True)
        reader = ShiftedLive(open_live(f"sqlite://{tmp_path}/live.db"), wall - data_ends)
        assert await writer.append(events) == 2
        (found,) = await reader.load(["u"], data_ends)
        (whole,) = await reader.load(["u"], data_ends - 60 * SECOND)
        (newest,) = await reader.load(["u"], 0, last=1)
        await reader.close()
        await writer.close()
        return found, whole, newest

    found, whole, newest = asyncio.run(go())
    assert found.item_id.tolist() == newest.item_id.tolist() == ["i2"]  # what came before the data's end is in the data
    assert found.time.tolist() == [data_ends + 2 * SECOND]
    assert whole.time.tolist() == [data_ends - 5 * SECOND, data_ends + 2 * SECOND]
