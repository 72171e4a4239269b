"""The schedule that keeps active symbols fresh: its RPCs of IngestService as methods."""

from __future__ import annotations

from mdw.ingest.v1 import ingest_pb2 as pb
from mdw_client import words
from mdw_client.calls import Call, Part, R
from mdw_client.methods import operation

_RPC = "/mdw.ingest.v1.IngestService/"
_RUN_TIMEOUT = 120.0


class Schedule(Part[R]):
    """What plans new sessions by itself, after each close."""

    @operation
    def get(self) -> Call[pb.Schedule]:
        """Says what the schedule did last, does next, and whether the requests suffice."""
        return Call(_RPC + "GetSchedule", pb.GetScheduleRequest(), lambda answer: answer.schedule)

    @operation
    def run(self, *, request_id: str | None = None) -> Call[pb.Backfill]:
        """Starts a run now, paused or not; the backfill is SUCCEEDED at once where there is nothing to do."""
        request = pb.RunScheduleRequest(request_id=words.request_id(request_id))
        return Call(_RPC + "RunSchedule", request, lambda answer: answer.backfill, _RUN_TIMEOUT)

    @operation
    def pause(self, note: str = "") -> Call[pb.Schedule]:
        """Lets the schedule plan nothing more; what it has planned goes on."""
        return Call(_RPC + "PauseSchedule", pb.PauseScheduleRequest(note=note), lambda answer: answer.schedule)

    @operation
    def resume(self, note: str = "") -> Call[pb.Schedule]:
        """Lets the schedule go on, with what it missed meanwhile."""
        return Call(_RPC + "ResumeSchedule", pb.ResumeScheduleRequest(note=note), lambda answer: answer.schedule)
