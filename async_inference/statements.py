"""The statements that move asynchronous requests from state to state. Each is one transaction, and safe to come twice.

They are plain SQL with named values, because gateways (without Django), dispatchers (asyncio) and the console's services
send the same ones. Times are the database's, so that clocks of machines don't matter.
"""

from async_inference.states import CANCELLED, EXPIRED, FAILED, QUEUED, RETRYING, RUNNING, UNFINISHED

_REQUEST = "async_inference_asyncrequest"
_WAITING = f"('{QUEUED}', '{RETRYING}')"

# Two before SUBMIT, in one transaction with it. Where the sender's organization has a quota, whoever submits for it waits here for
# whoever did before: else two would both see the last place.
HOLD_QUOTA = """
SELECT async_requests AS most FROM deployments_quota
WHERE organization_id = %(organization)s AND async_requests IS NOT NULL FOR NO KEY UPDATE
"""
UNFINISHED_OF = (
    f"SELECT count(*) AS used FROM (SELECT 1 FROM {_REQUEST} WHERE organization_id = %(organization)s "
    f"AND state IN {UNFINISHED} LIMIT %(most)s) found"
)

# Nothing comes back where the idempotency key is taken, or where the deployment's queue is full.
SUBMIT = f"""
WITH added AS (
    INSERT INTO {_REQUEST} (uid, deployment_id, api_id, organization_id, user_id, key_id, priority, queue_s, expires_at, retries,
        payload_bytes, webhook_url, idempotency_key, fingerprint, retry_of)
    SELECT %(uid)s, %(deployment)s, %(api_id)s, %(organization)s, %(user)s, %(key)s, %(priority)s, %(queue_s)s,
        now() + %(queue_s)s * interval '1 second', %(retries)s, %(payload_bytes)s, %(webhook)s, %(idempotency_key)s, %(fingerprint)s,
        %(retry_of)s
    FROM (SELECT coalesce(sum(waiting), 0) AS waiting, coalesce(sum(kept_bytes), 0) AS bytes,
            coalesce(sum(waiting) FILTER (WHERE user_id = %(user)s), 0) AS own, coalesce(sum(kept_bytes) FILTER (WHERE user_id = %(user)s), 0) AS own_bytes
        FROM async_inference_asyncbacklog WHERE deployment_id = %(deployment)s) backlog
    -- Nobody takes more than half of what there is for all.
    WHERE backlog.waiting < %(most_waiting)s AND backlog.bytes + %(payload_bytes)s <= %(most_bytes)s
        AND backlog.own < %(most_waiting)s / 2.0 AND backlog.own_bytes + %(payload_bytes)s <= %(most_bytes)s / 2.0
    ON CONFLICT (user_id, deployment_id, idempotency_key) WHERE NOT (idempotency_key = '') DO NOTHING
    RETURNING id
)
INSERT INTO async_inference_asyncpayload (request_id, method, path, headers, body)
SELECT id, %(method)s, %(path)s, %(headers)s, %(body)s FROM added RETURNING request_id
"""

SAME_KEY = f"""
SELECT uid, fingerprint FROM {_REQUEST}
WHERE user_id = %(user)s AND deployment_id = %(deployment)s AND idempotency_key = %(idempotency_key)s
"""

# Deployments with something to claim, each found by one look into the index: the queue's length doesn't matter.
WAITING_DEPLOYMENTS = f"""
WITH RECURSIVE found AS (
    (SELECT deployment_id FROM {_REQUEST} WHERE state = '{QUEUED}' ORDER BY deployment_id LIMIT 1)
    UNION ALL
    SELECT (SELECT deployment_id FROM {_REQUEST} WHERE state = '{QUEUED}' AND deployment_id > found.deployment_id
        ORDER BY deployment_id LIMIT 1) FROM found WHERE found.deployment_id IS NOT NULL
)
SELECT deployment_id FROM found WHERE deployment_id IS NOT NULL
"""

# One claimant per deployment at a time: else two would each fill the room that there is.
LOCK_DEPLOYMENT = "SELECT pg_try_advisory_xact_lock(%(class)s, %(deployment)s::int)"
CLAIM_CLASS = 0x51A9

# At most so many as still fit. `held_back` are callers whose limits were hit just now, as “user:key”.
CLAIM = f"""
WITH chosen AS (
    SELECT id FROM {_REQUEST}
    WHERE deployment_id = %(deployment)s AND state = '{QUEUED}' AND expires_at > now()
        AND NOT (user_id || ':' || key_id = ANY(%(held_back)s::text[]))
    ORDER BY priority, id
    LIMIT GREATEST(0, LEAST(%(most)s, %(capacity)s - (
        SELECT count(*) FROM {_REQUEST} WHERE deployment_id = %(deployment)s AND state = '{RUNNING}')))
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE {_REQUEST} request SET state = '{RUNNING}', fence = fence + 1,
        lease_until = now() + %(lease_s)s * interval '1 second', claimed_at = clock_timestamp()
    -- As an array: a join would be planned for the whole table.
    WHERE request.id = ANY(ARRAY(SELECT id FROM chosen))
    RETURNING request.id, uid, deployment_id, organization_id, user_id, key_id, fence, attempts, retries, priority, payload_bytes
)
SELECT claimed.*, payload.method, payload.path, payload.headers, payload.body, key.digest
FROM claimed JOIN async_inference_asyncpayload payload ON payload.request_id = claimed.id
LEFT JOIN apikeys_apikey key ON key.id = claimed.key_id
ORDER BY claimed.priority, claimed.id
"""

# Without waiting for anybody: who holds a row longer than a lease must not make all the others lapse.
RENEW = f"""
UPDATE {_REQUEST} SET lease_until = now() + %(lease_s)s * interval '1 second'
WHERE id = ANY(ARRAY(
    SELECT request.id FROM unnest(%(ids)s::bigint[], %(fences)s::int[]) AS mine (id, fence) JOIN {_REQUEST} request
        ON request.id = mine.id AND request.fence = mine.fence AND request.state = '{RUNNING}'
    ORDER BY request.id FOR UPDATE OF request SKIP LOCKED))
"""

# Those that are not the claimant's any more: cancelled, or given to somebody else.
LOST = f"""
SELECT mine.id FROM unnest(%(ids)s::bigint[], %(fences)s::int[]) AS mine (id, fence)
LEFT JOIN {_REQUEST} request ON request.id = mine.id AND request.fence = mine.fence AND request.state = '{RUNNING}'
WHERE request.id IS NULL
"""

_MINE = f"id = %(id)s AND fence = %(fence)s AND state = '{RUNNING}'"
_TELL = """
INSERT INTO async_inference_webhookdelivery (request_id, user_id) SELECT id, user_id FROM ended WHERE webhook_url <> ''
"""
# What has run did not wait meanwhile.
_BACK = "expires_at = expires_at + (clock_timestamp() - claimed_at)"
_BEGUN = "started_at = coalesce(started_at, claimed_at)"

# The result and the end, or neither. Nothing comes back for a claim that isn't the claimant's any more.
FINISH = f"""
WITH ended AS (
    UPDATE {_REQUEST} SET state = %(state)s, finished_at = clock_timestamp(), lease_until = NULL,
        attempts = attempts + %(reached)s::boolean::int, status_code = %(status)s, error_code = %(code)s, error_message = %(message)s,
        version_id = %(version)s, result_bytes = length(%(body)s::bytea), started_at = coalesce(started_at, CASE WHEN %(reached)s THEN claimed_at END)
    WHERE {_MINE} RETURNING id, user_id, webhook_url
), kept AS (
    INSERT INTO async_inference_asyncresult (request_id, content_type, body)
    SELECT id, %(content_type)s, %(body)s FROM ended WHERE %(status)s::int IS NOT NULL
), told AS ({_TELL})
SELECT id FROM ended
"""

# To be tried again, which counts as an attempt.
RETRY = f"""
UPDATE {_REQUEST} SET state = '{RETRYING}', lease_until = NULL, attempts = attempts + 1, error_code = %(code)s, {_BEGUN}, {_BACK},
    error_message = %(message)s, due_at = now() + %(wait_s)s * interval '1 second'
WHERE {_MINE} RETURNING id
"""

# Back where it was: no instance was asked, or its dispatcher ends in order.
PUT_BACK = f"""
UPDATE {_REQUEST} SET state = '{QUEUED}', lease_until = NULL, {_BACK}, started_at = coalesce(started_at, CASE WHEN %(reached)s THEN claimed_at END)
WHERE {_MINE} RETURNING id
"""

WAKE_RETRIES = f"""
UPDATE {_REQUEST} SET state = '{QUEUED}', due_at = NULL WHERE id = ANY(ARRAY(
    SELECT id FROM {_REQUEST} WHERE state = '{RETRYING}' AND due_at <= now() ORDER BY id LIMIT 5000 FOR UPDATE SKIP LOCKED))
"""

# Whose dispatcher vanished. It may have been answered, so this can be its second run; only one result is kept.
RECLAIM = f"""
WITH lost AS (
    SELECT id FROM {_REQUEST} WHERE state = '{RUNNING}' AND lease_until < now() LIMIT 1000 FOR UPDATE SKIP LOCKED
), ended AS (
    UPDATE {_REQUEST} request SET losses = losses + 1, lease_until = NULL, {_BEGUN}, {_BACK},
        state = CASE WHEN losses + 1 >= %(most_losses)s THEN '{FAILED}' ELSE '{QUEUED}' END,
        finished_at = CASE WHEN losses + 1 >= %(most_losses)s THEN clock_timestamp() END,
        error_code = CASE WHEN losses + 1 >= %(most_losses)s THEN 'dispatcher_lost' ELSE '' END,
        error_message = CASE WHEN losses + 1 >= %(most_losses)s THEN %(message)s ELSE '' END
    WHERE request.id = ANY(ARRAY(SELECT id FROM lost)) RETURNING request.id, user_id, webhook_url, finished_at
), told AS (
    INSERT INTO async_inference_webhookdelivery (request_id, user_id)
    SELECT id, user_id FROM ended WHERE webhook_url <> '' AND finished_at IS NOT NULL
)
SELECT id FROM ended
"""

OVERDUE_DEPLOYMENTS = f"""
SELECT deployment_id, min(api_id) FROM (
    SELECT deployment_id, api_id FROM {_REQUEST} WHERE state IN {_WAITING} AND expires_at <= now() LIMIT 5000
) overdue GROUP BY deployment_id
"""

EXPIRE = f"""
WITH overdue AS (
    SELECT id FROM {_REQUEST} WHERE deployment_id = %(deployment)s AND state IN {_WAITING} AND expires_at <= now()
    LIMIT 5000 FOR UPDATE SKIP LOCKED
), ended AS (
    UPDATE {_REQUEST} request SET state = '{EXPIRED}', finished_at = clock_timestamp(), error_code = 'queue_time_exceeded',
        error_message = 'It waited ' || queue_s || ' s, its longest time in the queue: ' || %(reason)s
            || CASE WHEN error_message <> '' THEN ' Before that: ' || error_message ELSE '' END
    WHERE request.id = ANY(ARRAY(SELECT id FROM overdue)) RETURNING request.id, user_id, webhook_url
), told AS ({_TELL})
SELECT id FROM ended
"""

# By id; what runs is cut off by its dispatcher, which loses its claim by this.
CANCEL = f"""
WITH ended AS (
    UPDATE {_REQUEST} SET state = '{CANCELLED}', finished_at = clock_timestamp(), lease_until = NULL,
        error_code = %(code)s, error_message = %(message)s,
        started_at = coalesce(started_at, CASE WHEN state = '{RUNNING}' THEN claimed_at END)
    WHERE uid = %(uid)s AND state IN ('{QUEUED}', '{RETRYING}', '{RUNNING}') RETURNING id, user_id, webhook_url
), told AS ({_TELL})
SELECT id FROM ended
"""

# At most so many at once; in the order of their ids, as everybody else who takes several.
CANCEL_ALL = f"""
WITH chosen AS (
    SELECT id FROM {_REQUEST} WHERE deployment_id = %(deployment)s AND state = ANY(%(states)s) ORDER BY id LIMIT %(most)s FOR UPDATE
), ended AS (
    UPDATE {_REQUEST} SET state = '{CANCELLED}', finished_at = clock_timestamp(), lease_until = NULL,
        error_code = %(code)s, error_message = %(message)s,
        started_at = coalesce(started_at, CASE WHEN state = '{RUNNING}' THEN claimed_at END)
    WHERE id = ANY(ARRAY(SELECT id FROM chosen)) RETURNING id, user_id, webhook_url
), told AS ({_TELL})
SELECT count(*) FROM ended
"""

# How many go before it: exact up to this many, which is further than anybody counts.
MOST_POSITIONS = 100_000
POSITION = f"""
SELECT count(*) FROM (
    SELECT 1 FROM {_REQUEST} WHERE deployment_id = %(deployment)s AND state = '{QUEUED}' AND (priority, id) < (%(priority)s, %(id)s)
    LIMIT {MOST_POSITIONS}
) ahead
"""

# Per second, over the last five minutes.
PACE_S = 300
PACE = f"""
SELECT count(*) / {PACE_S}.0 FROM {_REQUEST}
WHERE finished_at > now() - interval '{PACE_S} seconds' AND deployment_id = %(deployment)s AND started_at IS NOT NULL
"""

COLUMNS = (
    "id", "uid", "deployment_id", "api_id", "user_id", "key_id", "priority", "state", "created_at", "expires_at", "queue_s", "claimed_at",
    "started_at",    "finished_at", "attempts", "retries", "status_code", "error_code", "error_message", "webhook_url", "retry_of",
)  # fmt: skip
_SHOWN = ", ".join(f"request.{name}" for name in COLUMNS)

# Of the caller alone; a key for chosen deployments sees theirs alone.
ONE = f"""
SELECT {_SHOWN}, delivery.state AS webhook_state, delivery.attempts AS webhook_attempts
FROM {_REQUEST} request LEFT JOIN async_inference_webhookdelivery delivery ON delivery.request_id = request.id
WHERE request.uid = %(uid)s AND request.user_id = %(user)s AND (%(deployments)s::bigint[] IS NULL OR deployment_id = ANY(%(deployments)s::bigint[]))
"""

LIST = f"""
SELECT {_SHOWN}, delivery.state AS webhook_state, delivery.attempts AS webhook_attempts
FROM {_REQUEST} request LEFT JOIN async_inference_webhookdelivery delivery ON delivery.request_id = request.id
WHERE request.user_id = %(user)s AND (%(deployments)s::bigint[] IS NULL OR deployment_id = ANY(%(deployments)s::bigint[]))
    AND (%(api_id)s::text = '' OR api_id = %(api_id)s) AND (%(states)s::text[] IS NULL OR request.state = ANY(%(states)s::text[]))
    AND (%(before)s::uuid IS NULL OR id < (SELECT id FROM {_REQUEST} WHERE uid = %(before)s AND user_id = %(user)s))
ORDER BY id DESC LIMIT %(limit)s
"""

RESULT = f"""
SELECT request.state, result.content_type, result.body, request.status_code, request.error_message
FROM {_REQUEST} request LEFT JOIN async_inference_asyncresult result ON result.request_id = request.id
WHERE request.uid = %(uid)s AND request.user_id = %(user)s AND (%(deployments)s::bigint[] IS NULL OR deployment_id = ANY(%(deployments)s::bigint[]))
"""

# Of everything that is kept, ended or not: disks don't care.
SIZES = f"""
SELECT deployment_id, user_id, count(*) FILTER (WHERE state IN {_WAITING}), sum(payload_bytes::bigint + result_bytes) FROM {_REQUEST}
GROUP BY deployment_id, user_id
"""

# Queue times of those that ended in [start, end) and had been begun: deployment, version, seconds.
QUEUE_TIMES = f"""
SELECT deployment_id, coalesce(version_id, 0), extract(epoch FROM started_at - created_at)::float8,
    floor(extract(epoch FROM finished_at) / 10)::bigint * 10
FROM {_REQUEST} WHERE finished_at >= to_timestamp(%(start)s) AND finished_at < to_timestamp(%(end)s) AND started_at IS NOT NULL
"""

# Deliveries: claimed by moving their next time ahead, so that one whose sender vanished comes up again by itself.
CLAIM_DELIVERIES = f"""
WITH due AS (
    SELECT request_id FROM async_inference_webhookdelivery WHERE state = 'pending' AND due_at <= now() AND user_id <> ALL(%(busy)s::bigint[])
    ORDER BY due_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE async_inference_webhookdelivery delivery SET fence = fence + 1, due_at = now() + %(lease_s)s * interval '1 second'
    WHERE delivery.request_id = ANY(ARRAY(SELECT request_id FROM due))
    RETURNING delivery.request_id, fence, delivery.attempts, extract(epoch FROM now() - since)::float8 AS age
)
SELECT claimed.request_id AS delivery_id, claimed.fence, claimed.attempts AS tries, claimed.age, {_SHOWN},
    result.content_type, CASE WHEN length(result.body) <= %(inline)s THEN result.body END AS body,
    coalesce(secret.generation, 1) AS generation
FROM claimed JOIN {_REQUEST} request ON request.id = claimed.request_id
LEFT JOIN async_inference_asyncresult result ON result.request_id = request.id
LEFT JOIN async_inference_webhooksecret secret ON secret.user_id = request.user_id
"""

NOTE_ATTEMPT = """
WITH noted AS (
    UPDATE async_inference_webhookdelivery SET attempts = attempts + 1, state = %(state)s,
        due_at = now() + %(wait_s)s * interval '1 second'
    WHERE request_id = %(id)s AND fence = %(fence)s RETURNING request_id
)
INSERT INTO async_inference_webhookattempt (delivery_id, status_code, error, duration_ms)
SELECT request_id, %(status)s, %(error)s, %(duration_ms)s FROM noted
"""
