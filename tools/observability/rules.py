"""Recording rules and alerts. Every alert has a runbook of its name in docs/runbooks/ and a unit test in
deploy/prometheus/rules_test.yaml.

The SLO: 99.9% of requests end without a server's fault over 30 days; burn rates after the SRE workbook, chapter 5
(14.4 × over 1 h and 5 m, 6 × over 6 h and 30 m).
"""
OBJECTIVE = 0.999
# Our faults: what a client could not have avoided.
FAULTS = 'method="Generate",code=~"UNAVAILABLE|INTERNAL|DATA_LOSS|UNKNOWN|DEADLINE_EXCEEDED"'
REQUESTS = "conclave_gateway_requests_total"
TTFT = "conclave_gateway_time_to_first_token_seconds"


def errors(window):
    return (f"(sum(rate({REQUESTS}{{{FAULTS}}}[{window}])) or vector(0))"
            f' / (sum(rate({REQUESTS}{{method="Generate"}}[{window}])) > 0)')


RECORDING = [(f"conclave:errors:ratio_{window}", errors(window)) for window in ("5m", "30m", "1h", "6h", "30d")] + [
    ("conclave:availability:ratio_30d", "1 - conclave:errors:ratio_30d"),
    ("conclave:error_budget_left:ratio_30d", f"1 - conclave:errors:ratio_30d / {1 - OBJECTIVE:.3f}"),
    ("conclave:time_to_first_token_1s:ratio_1d",
     f'sum(rate({TTFT}_bucket{{le="1"}}[1d])) / (sum(rate({TTFT}_count[1d])) > 0)'),
    ("conclave:shard_imbalance:ratio_5m",
     "max(sum by (instance) (rate(conclave_expert_rows_total[5m])))"
     " / (avg(sum by (instance) (rate(conclave_expert_rows_total[5m]))) > 0)"),
    # The share of its time that each shard computes, and what it comes to for the pool: a layer takes as long as its
    # slowest shard, so the mean is divided by the balancedness (mean over largest), which counts for a factor of two at
    # most: what one hot expert costs, more shards do not mend.
    ("conclave:shard_busy:ratio_5m", "sum by (instance) (rate(conclave_expert_compute_seconds_sum[5m]))"),
    ("conclave:shard_busy:corrected_5m",
     "avg(conclave:shard_busy:ratio_5m) * scalar(clamp_max(conclave:shard_imbalance:ratio_5m, 2))"),
    # The router's own window is 30 to 60 seconds.
    ("conclave:expert_imbalance:ratio_5m",
     'max by (layer) (1 / avg_over_time(conclave_router_layer_balancedness{of="experts"}[5m]))'),
]


def burn(factor, long_window, short_window):
    limit = f"{factor * (1 - OBJECTIVE):.4f}"
    return f"conclave:errors:ratio_{long_window} > {limit} and conclave:errors:ratio_{short_window} > {limit}"


# name, expression, for, severity, summary
ALERTS = [
    ("ConclaveExpertShardDown", 'up{job="conclave-expert"} == 0', "1m", "critical",
     "Expert shard {{ $labels.instance }} does not answer scrapes."),
    ("ConclaveAttentionServiceDown", 'up{job="conclave-router"} == 0', "1m", "critical",
     "Attention service {{ $labels.instance }} does not answer scrapes."),
    ("ConclaveGatewayDown", 'up{job="conclave-gateway"} == 0', "1m", "critical",
     "Gateway {{ $labels.instance }} does not answer scrapes."),
    ("ConclaveShardFailures", "sum by (shard) (rate(conclave_router_shard_failures_total[5m])) > 0.1", "2m", "warning",
     "Calls to shard {{ $labels.shard }} fail; their rows are sent to other holders."),
    ("ConclaveShardImbalance", "conclave:shard_imbalance:ratio_5m > 2", "10m", "warning",
     "One shard runs more than twice the mean of rows: have its hot experts copied (placement_service)."),
    ("ConclavePlacementStalled", "time() - conclave_placement_last_round_timestamp_seconds > 120"
     ' or up{job="conclave-placement"} == 0', "2m", "warning",
     "The controller of placements {{ $labels.instance }} does no rounds: experts stay where they are."),
    ("ConclaveQueueGrowing",
     "sum by (instance) (conclave_router_requests_queued) > 10"
     " and sum by (instance) (deriv(conclave_router_requests_queued[10m])) > 0", "5m", "warning",
     "More sequences arrive at {{ $labels.instance }} than it answers."),
    # Blocks that only the prefix cache keeps are free to whoever needs them.
    ("ConclaveKvCacheFull", "(conclave_router_kv_blocks_used - conclave_router_kv_blocks_cached)"
     " / conclave_router_kv_blocks_capacity > 0.95", "10m", "warning",
     "The KV cache of {{ $labels.instance }} is full: sequences wait or are computed again."),
    ("ConclaveErrorBudgetBurnFast", burn(14.4, "1h", "5m"), "2m", "critical",
     "Errors use up the month's budget in two days."),
    ("ConclaveErrorBudgetBurnSlow", burn(6, "6h", "30m"), "15m", "warning",
     "Errors use up the month's budget in five days."),
]
