#include "cli/top_view.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "cli/bars.h"
#include "moe/base/json_writer.h"

namespace conclave {
namespace {

constexpr char kBold[] = "\033[1m", kRed[] = "\033[31m", kGreen[] = "\033[32m", kPlain[] = "\033[0m";

// What comes beside a layer's bars on its line.
constexpr int kLayerColumns = 44;

std::string Rate(uint64_t count, double seconds) {
  return seconds > 0 ? absl::StrFormat("%.0f/s", count / seconds) : absl::StrFormat("%d", count);
}

std::string RouterLine(const RouterSnapshot& router, bool colour) {
  if (!router.error.ok()) {
    return absl::StrCat(colour ? kRed : "", absl::StrFormat("%-22s", router.address),
                        " down: ", std::string(router.error.message()).substr(0, 80), colour ? kPlain : "", "\n");
  }
  const v1::GetStatusResponse& status = router.status;
  return absl::StrFormat("%-22s %-16s %8d %8d %9d/%d%s\n", router.address, status.model_id(), status.requests_running(),
                         status.requests_queued(), status.kv_blocks_used(), status.kv_blocks_total(),
                         status.draining() ? "  draining" : "");
}

std::string ShardLine(const ShardActivity& shard, uint64_t rows, double seconds, bool colour) {
  const char* state = shard.healthy ? "healthy" : shard.avoided ? "avoided" : "failing";
  return absl::StrFormat("%-16s %-22s %s%-9s%s %8d %12s %5d%%\n", shard.name, shard.address,
                         !colour         ? ""
                         : shard.healthy ? kGreen
                                         : kRed,
                         state, colour ? kPlain : "", shard.experts_held(), Rate(shard.rows, seconds),
                         rows == 0 ? 0 : shard.rows * 100 / rows);
}

std::string LayerLine(int32_t layer, const std::vector<uint64_t>& tokens, double seconds, int columns) {
  const auto busiest = std::max_element(tokens.begin(), tokens.end());
  const uint64_t total = std::accumulate(tokens.begin(), tokens.end(), uint64_t{0});
  const std::string most =
      total == 0 ? "none" : absl::StrFormat("%d (%d%%)", busiest - tokens.begin(), *busiest * 100 / total);
  return absl::StrFormat("%5d %12s %8.2f  %-11s  %s\n", layer, Rate(total, seconds), Imbalance(tokens), most,
                         Bars(SumNeighbours(tokens, std::max(8, columns - kLayerColumns))));
}

std::string Heading(const std::string& text, bool colour) {
  return colour ? absl::StrCat(kBold, text, kPlain, "\n") : absl::StrCat(text, "\n");
}

}  // namespace

std::string TopView(const ClusterSnapshot* before, const ClusterSnapshot& now, int columns, int layers_max,
                    bool colour) {
  const ClusterActivity activity = ActivityBetween(before, now);
  std::string view = Heading("attention service      model             running   queued  KV blocks used", colour);
  for (const RouterSnapshot& router : now.routers) absl::StrAppend(&view, RouterLine(router, colour));
  uint64_t rows = 0;
  for (const ShardActivity& shard : activity.shards) rows += shard.rows;
  absl::StrAppend(&view, "\n",
                  Heading("shard            address                state      experts         rows  share", colour));
  for (const ShardActivity& shard : activity.shards) {
    absl::StrAppend(&view, ShardLine(shard, rows, activity.seconds, colour));
  }
  if (activity.shards.empty()) absl::StrAppend(&view, "experts run in the attention service\n");
  absl::StrAppend(&view, "\n", Heading("layer       tokens max/mean  busiest      experts, from 0", colour));
  int shown = 0;
  for (const auto& [layer, tokens] : activity.layers) {
    if (shown++ == layers_max) {
      absl::StrAppend(&view, "      … and ", activity.layers.size() - static_cast<size_t>(layers_max),
                      " layers more\n");
      break;
    }
    absl::StrAppend(&view, LayerLine(layer, tokens, activity.seconds, columns));
  }
  return view;
}

std::string TopJson(const ClusterSnapshot* before, const ClusterSnapshot& now) {
  const ClusterActivity activity = ActivityBetween(before, now);
  JsonWriter json;
  json.BeginObject().Key("seconds").Real(activity.seconds).Key("attention_services").BeginArray();
  for (const RouterSnapshot& router : now.routers) {
    json.BeginObject().Key("address").Text(router.address).Key("up").Bool(router.error.ok());
    if (!router.error.ok()) json.Key("error").Text(router.error.message());
    json.Key("model").Text(router.status.model_id()).Key("running").Number(router.status.requests_running());
    json.Key("queued").Number(router.status.requests_queued());
    json.Key("kv_blocks_used").Number(static_cast<int64_t>(router.status.kv_blocks_used()));
    json.Key("kv_blocks_total").Number(static_cast<int64_t>(router.status.kv_blocks_total()));
    json.Key("placement_epoch").Number(static_cast<int64_t>(router.experts.placement_epoch())).End();
  }
  json.End().Key("shards").BeginArray();
  for (const ShardActivity& shard : activity.shards) {
    json.BeginObject().Key("name").Text(shard.name).Key("address").Text(shard.address);
    json.Key("healthy").Bool(shard.healthy).Key("avoided").Bool(shard.avoided);
    json.Key("experts").Number(shard.experts_held()).Key("rows").Number(static_cast<int64_t>(shard.rows)).End();
  }
  json.End().Key("layers").BeginArray();
  for (const auto& [layer, tokens] : activity.layers) {
    json.BeginObject().Key("layer").Number(layer).Key("imbalance").Real(Imbalance(tokens)).Key("tokens").BeginArray();
    for (const uint64_t count : tokens) json.Number(static_cast<int64_t>(count));
    json.End().End();
  }
  return json.End().End().text();
}

}  // namespace conclave
