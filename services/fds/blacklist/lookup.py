"""The question to the blacklist: is any of these values listed? The snapshot answers, or the copy, or the record."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import replace

from services.fds.blacklist.cluster_copy import Answers, ClusterCopy
from services.fds.blacklist.entries import Kind, Target
from services.fds.blacklist.errors import CopyUnavailableError
from services.fds.blacklist.follower import Follower
from services.fds.blacklist.keys import Lengths, bucket_of, decode, key_of, questions
from services.fds.blacklist.record import Record
from services.fds.blacklist.verdict import Hit, Verdict


class Lookup:
    """Asks about values. Remembers the prefix lengths in use between questions; every answer corrects them."""

    def __init__(self, copy: ClusterCopy, record: Record, follower: Follower | None = None) -> None:
        self._copy = copy
        self._record = record
        self._follower = follower
        self._lengths = Lengths()

    async def check(self, targets: Sequence[Target]) -> Verdict:
        """Whether any of `targets` is listed now: no round trip while the snapshot of this process may decide.

        Raises UnavailableError if nobody can answer; an error is never "not listed".
        """
        if self._follower is None:
            return await self.check_copy(targets)
        snapshot = self._follower.snapshot
        if snapshot is not None:
            return Verdict(snapshot.hits(targets, time.time_ns() // 1_000_000), "snapshot")
        verdict = await self.check_copy(targets)
        why = f"the snapshot of this worker cannot be used: {self._follower.following.problem}"
        return replace(verdict, detour=f"{why}; {verdict.detour}" if verdict.detour else why)

    async def check_copy(self, targets: Sequence[Target]) -> Verdict:
        """The copy's answer, in one round trip; the record's where the copy cannot tell.

        A second one follows only when a range of a length that this process has not met was added. Raises
        UnavailableError if neither copy nor record can answer; an error is never "not listed".
        """
        while True:
            asked = self._lengths  # as of now: other checks correct it while this one waits
            plan = _Plan(targets, asked)
            try:
                answers, source = await self._copy.ask(plan.keys)
            except CopyUnavailableError as error:
                return await self.check_record(targets, error.what)
            markers = {answer[0] for answer in answers.values()}
            lengths = Lengths()
            for marker in markers:
                if marker is None:
                    return await self.check_record(targets, "a part of the copy in Redis Cluster was lost")
                lengths = lengths | Lengths.parse(marker.decode())
            self._lengths = lengths
            if not plan.ranges or asked.covers(lengths):
                return Verdict(
                    plan.hits(answers), source, "" if source == "master" else "a master of Redis Cluster did not answer"
                )

    async def check_record(self, targets: Sequence[Target], detour: str) -> Verdict:
        """The record's own answer, and why it was asked. Raises UnavailableError."""
        asked = [(question, target) for target in targets for question in questions(target, Lengths.every())]
        entries = {entry.target: entry for entry in await self._record.find({question for question, _ in asked})}
        hits = tuple(Hit(target, entries[question]) for question, target in asked if question in entries)
        return Verdict(hits, "record", detour)


class _Plan:
    """Which keys of which buckets answer about `targets`."""

    def __init__(self, targets: Sequence[Target], lengths: Lengths) -> None:
        self._targets = targets
        self.keys: dict[int, list[str]] = {}
        self.ranges = False
        self._asked: dict[int, list[tuple[Target, Target]]] = {}
        for target in targets:
            self.ranges = self.ranges or target.kind is Kind.ip
            for question in questions(target, lengths):
                bucket = bucket_of(question.kind, question.value)
                self.keys.setdefault(bucket, []).append(key_of(question))
                self._asked.setdefault(bucket, []).append((target, question))

    def hits(self, answers: Answers) -> tuple[Hit, ...]:
        now = dt.datetime.now(dt.UTC)
        hits: list[Hit] = []
        for bucket, asked in self._asked.items():
            for (target, question), value in zip(asked, answers[bucket][1:], strict=True):
                if value is not None:
                    entry = decode(question, value)
                    if entry.active(now):
                        hits.append(Hit(target, entry))
        return tuple(sorted(hits, key=lambda hit: self._targets.index(hit.asked)))
