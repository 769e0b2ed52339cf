"""What the dashboards show: one Panel a picture, one list a dashboard. tools/observability/generate.py draws them.

Units are Grafana's. Every expression is checked against the metrics in the code (tests/observability_test.py).
"""
from dataclasses import dataclass, field

RATE = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    title: str
    queries: list  # (PromQL, legend)
    unit: str = "short"
    kind: str = "timeseries"  # timeseries, stat, heatmap, table, bargauge
    width: int = 12
    help: str = ""


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    panels: list
    variables: list = field(default_factory=list)  # (name, PromQL of label_values, with "All")


def rate(metric, by="", labels=""):
    selected = f"{metric}{{{labels}}}" if labels else metric
    return f"sum by ({by}) (rate({selected}[{RATE}]))" if by else f"sum(rate({selected}[{RATE}]))"


def quantile(q, histogram, by=""):
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket[{RATE}])))"


def quantiles(histogram):
    return [(quantile(q, histogram), f"p{int(q * 100)}") for q in (0.5, 0.9, 0.99)]


# Largest share of one shard, or expert, over the mean: 1 is perfect, E is all tokens on one of E.
SHARD_IMBALANCE = (f"max(sum by (instance) (rate(conclave_expert_rows_total[{RATE}])))"
                   f" / avg(sum by (instance) (rate(conclave_expert_rows_total[{RATE}])))")
EXPERT_IMBALANCE = 'max by (layer) (1 / conclave_router_layer_balancedness{of="experts"})'

OVERVIEW = Dashboard("conclave-overview", "Conclave / Overview", [
    Panel("Answers under way", [("sum(conclave_gateway_requests_running)", "running")], kind="stat", width=6),
    Panel("Tokens generated", [(rate("conclave_gateway_generated_tokens_total"), "tokens")], "short", "stat", 6),
    Panel("Time to first token, p99", [(quantile(0.99, "conclave_gateway_time_to_first_token_seconds"), "p99")], "s",
          "stat", 6),
    Panel("Processes up", [('sum by (job) (up{job=~"conclave-.*"})', "{{job}}")], kind="stat", width=6),
    Panel("Requests by outcome", [(rate("conclave_gateway_requests_total", "code"), "{{code}}")], "reqps"),
    Panel("Tokens", [(rate("conclave_gateway_prompt_tokens_total"), "prompt"),
                     (rate("conclave_gateway_generated_tokens_total"), "generated")], "short"),
    Panel("Time to first token", quantiles("conclave_gateway_time_to_first_token_seconds"), "s"),
    Panel("Time between tokens", quantiles("conclave_gateway_inter_token_latency_seconds"), "s"),
    Panel("Whole answers", quantiles("conclave_gateway_request_duration_seconds"), "s"),
    Panel("KV cache in use", [("sum(conclave_router_kv_blocks_used - conclave_router_kv_blocks_cached)"
                               " / sum(conclave_router_kv_blocks_capacity)", "sequences"),
                              ("sum(conclave_router_kv_blocks_cached) / sum(conclave_router_kv_blocks_capacity)",
                               "prefixes alone")], "percentunit"),
])

EXPERTS = Dashboard("conclave-experts", "Conclave / Experts", [
    Panel("Tokens by expert", [(f'sum by (expert) (rate(conclave_router_expert_tokens_total{{layer=~"$layer"}}'
                                f"[{RATE}]))", "{{expert}}")], "short", "heatmap", 24,
          "One row an expert; choose the layer above. Needs --per-expert-metrics on the attention services."),
    Panel("Tokens by shard", [('sum by (layer, shard) (rate(conclave_router_layer_shard_tokens_total'
                               f'{{layer=~"$layer"}}[{RATE}]))', "layer {{layer}} {{shard}}")], "short", "heatmap", 24),
    Panel("Busiest expert over the mean, by layer", [(EXPERT_IMBALANCE, "layer {{layer}}")], "short", help="1 is "
          "perfect balance; the number of experts is all tokens on one of them."),
    Panel("Balancedness of the shards, by layer", [('min by (layer) (conclave_router_layer_balancedness{of="shards"})',
                                                   "layer {{layer}}")], "percentunit"),
    Panel("Hottest experts, share of their layer", [("max by (layer, expert) (conclave_router_hot_expert_share)",
                                                     "layer {{layer}} expert {{expert}}")], "percentunit", "bargauge"),
    Panel("Who holds how many", [("conclave_expert_held", "{{instance}}")], kind="bargauge"),
    Panel("Rebalancing: busiest shard over the mean", [("max by (of) (conclave_placement_imbalance_ratio)", "{{of}}")],
          help="As shards ran lately; as it could be with what they hold; and after all that is planned. From "
          "placement_service."),
    Panel("Rebalancing: experts moved", [(rate("conclave_placement_moves_total", "kind"), "{{kind}}"),
                                         ("max(conclave_placement_moves_waiting)", "waiting")]),
    Panel("Rebalancing: rounds", [(rate("conclave_placement_rounds_total", "outcome"), "{{outcome}}")], "reqps"),
    Panel("Rebalancing: since the last round", [("time() - max(conclave_placement_last_round_timestamp_seconds)",
                                                "age")], "s", "stat"),
    Panel("Expert bytes held", [("conclave_expert_held_bytes", "{{instance}}")], "bytes", "bargauge"),
], [("layer", "label_values(conclave_router_layer_balancedness, layer)", True)])

SHARDS = Dashboard("conclave-shards", "Conclave / Shards", [
    Panel("Rows run", [(rate("conclave_expert_rows_total", "instance"), "{{instance}}")]),
    Panel("Busiest shard over the mean", [(SHARD_IMBALANCE, "imbalance")]),
    Panel("Call, as routers see it (p99)", [(quantile(0.99, "conclave_router_shard_call_seconds", "shard"),
                                             "{{shard}}")], "s"),
    Panel("Compute (p99)", [(quantile(0.99, "conclave_expert_compute_seconds", "instance"), "{{instance}}")], "s"),
    Panel("Queue (p99)", [(quantile(0.99, "conclave_expert_queue_seconds", "instance"), "{{instance}}")], "s"),
    Panel("Calls by outcome", [(rate("conclave_expert_calls_total", "code"), "{{code}}")], "reqps"),
    Panel("Failed calls, as routers see them", [(rate("conclave_router_shard_failures_total", "shard"), "{{shard}}")],
          "reqps"),
    Panel("Rows sent again", [(rate("conclave_router_expert_resends_total", "cause"), "{{cause}}")], "reqps"),
    Panel("Busy, each shard and the pool", [("conclave:shard_busy:ratio_5m", "{{instance}}"),
                                            ("conclave:shard_busy:corrected_5m", "pool, by its slowest")],
          "percentunit", help="The pool's number is what the autoscaler looks at: the mean over the balancedness."),
    Panel("Bytes of activations", [(rate("conclave_router_transport_bytes_total", "transport, direction"),
                                    "{{transport}} {{direction}}")], "Bps"),
    Panel("Dispatch and combine of one layer (p99)", [(quantile(0.99, "conclave_router_dispatch_seconds"), "dispatch"),
                                                      (quantile(0.99, "conclave_router_combine_seconds"), "combine")],
          "s"),
    Panel("Hedged and won", [(rate("conclave_router_expert_hedges_total"), "hedged"),
                             (rate("conclave_router_expert_hedge_wins_total"), "won")], "reqps"),
    Panel("Ejections", [(rate("conclave_router_shard_ejections_total", "shard"), "{{shard}}")], "reqps"),
    Panel("Placement epoch", [("max by (shard) (conclave_router_shard_epoch)", "{{shard}}")]),
    Panel("Expert bytes loaded", [("conclave_expert_loaded_bytes", "{{instance}}")], "bytes", "bargauge"),
    Panel("Experts loaded", [("sum(conclave_expert_loaded) / sum(conclave_expert_held)", "share")], "percentunit",
          "stat"),
])

ATTENTION = Dashboard("conclave-attention", "Conclave / Attention service", [
    Panel("Sequences", [("sum by (instance) (conclave_router_requests_running)", "{{instance}} running"),
                        ("sum by (instance) (conclave_router_requests_queued)", "{{instance}} queued")]),
    Panel("KV blocks", [("sum by (instance) (conclave_router_kv_blocks_used)", "{{instance}} used"),
                        ("sum by (instance) (conclave_router_kv_blocks_capacity)", "{{instance}} in all")]),
    Panel("Tokens", [(rate("conclave_router_prefill_tokens_total", "instance"), "{{instance}} prefill"),
                     (rate("conclave_router_decode_tokens_total", "instance"), "{{instance}} decode")]),
    Panel("Sequences by outcome", [(rate("conclave_router_requests_total", "code"), "{{code}}")], "reqps"),
    Panel("Phases of a sequence (p99)", [(quantile(0.99, f"conclave_router_{phase}_seconds"), phase)
                                         for phase in ("queue", "prefill", "decode")], "s"),
    Panel("Time to first token", quantiles("conclave_router_time_to_first_token_seconds"), "s"),
    Panel("Time between tokens", quantiles("conclave_router_inter_token_latency_seconds"), "s"),
    Panel("Rows of a step", quantiles("conclave_router_step_rows")),
    Panel("Prompt tokens found in the prefix cache", [
        (f"sum(rate(conclave_router_prefix_hit_tokens_total[{RATE}]))"
         f" / sum(rate(conclave_router_prompt_tokens_total[{RATE}]))", "share")], "percentunit"),
    Panel("Preemptions", [(rate("conclave_router_preemptions_total", "instance"), "{{instance}}")]),
    Panel("Weights loaded", [("conclave_router_load_ratio", "{{instance}}")], "percentunit", "stat"),
    Panel("Spans of traces", [(rate("conclave_tracing_spans_total", "outcome"), "{{outcome}}")]),
])

SLO = Dashboard("conclave-slo", "Conclave / SLO", [
    Panel("Availability, 30 days", [("conclave:availability:ratio_30d", "good")], "percentunit", "stat", 8),
    Panel("First token within 1 s, 1 day", [("conclave:time_to_first_token_1s:ratio_1d", "good")], "percentunit",
          "stat", 8),
    Panel("Error budget left, 30 days", [("conclave:error_budget_left:ratio_30d", "left")], "percentunit", "stat", 8),
    Panel("Errors", [("conclave:errors:ratio_5m", "5 m"), ("conclave:errors:ratio_1h", "1 h"),
                     ("conclave:errors:ratio_6h", "6 h")], "percentunit", width=24),
])

COST = Dashboard("conclave-cost", "Conclave / Cost", [
    Panel("Requests by tenant", [(rate("conclave_gateway_tenant_requests_total", "tenant"), "{{tenant}}")], "reqps"),
    Panel("Generated tokens by tenant", [(rate("conclave_gateway_tenant_generated_tokens_total", "tenant"),
                                          "{{tenant}}")]),
    Panel("Prompt tokens by tenant", [(rate("conclave_gateway_tenant_prompt_tokens_total", "tenant"), "{{tenant}}")]),
    Panel("Refused, by tenant and limit", [(rate("conclave_gateway_tenant_refused_total", "tenant, limit"),
                                            "{{tenant}} {{limit}}")], "reqps"),
    Panel("Answers under way by tenant", [("sum by (tenant) (conclave_gateway_tenant_answers_running)", "{{tenant}}")]),
    Panel("Tokens per second and process", [
        (f"sum(rate(conclave_gateway_generated_tokens_total[{RATE}]))"
         ' / count(up{job=~"conclave-(router|expert)"} == 1)', "tokens/s")]),
    Panel("Cost of a million generated tokens", [
        (f'count(up{{job=~"conclave-(router|expert)"}} == 1) * $price_per_process_hour / 3600 * 1e6'
         f" / sum(rate(conclave_gateway_generated_tokens_total[{RATE}]))", "per million")], "currencyUSD"),
], [("price_per_process_hour", 1.0, False)])

DASHBOARDS = {"overview": OVERVIEW, "experts": EXPERTS, "shards": SHARDS, "attention": ATTENTION, "slo": SLO,
              "cost": COST}
