#include "gateway/cluster/cluster_map.h"

#include <algorithm>
#include <cstdint>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gateway/cluster/cluster_activity.h"
#include "moe/base/json_writer.h"

namespace conclave {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(1);

void WriteRouter(const RouterSnapshot& router, size_t index, JsonWriter& json) {
  const v1::GetStatusResponse& status = router.status;
  json.BeginObject().Key("name").Text(absl::StrCat("router-", index)).Key("address").Text(router.address);
  json.Key("up").Bool(router.error.ok());
  if (!router.error.ok()) json.Key("error").Text(router.error.message());
  json.Key("draining").Bool(status.draining()).Key("running").Number(status.requests_running());
  json.Key("queued").Number(status.requests_queued());
  json.Key("kv_blocks_used").Number(static_cast<int64_t>(status.kv_blocks_used()));
  json.Key("kv_blocks_total").Number(static_cast<int64_t>(status.kv_blocks_total()));
  json.Key("numeric_profile").Text(status.numeric_profile()).End();
}

void WriteShard(const ShardActivity& shard, JsonWriter& json) {
  json.BeginObject().Key("name").Text(shard.name).Key("address").Text(shard.address);
  json.Key("healthy").Bool(shard.healthy).Key("avoided").Bool(shard.avoided);
  json.Key("rows").Number(static_cast<int64_t>(shard.rows));
  json.Key("experts").Number(shard.experts_held()).Key("holdings").BeginArray();
  for (const auto& [layer, experts] : shard.experts) {
    json.BeginObject().Key("layer").Number(layer).Key("experts").Numbers(experts).End();
  }
  json.End().End();
}

class Map final : public ClusterMap {
 public:
  Map(const ClusterMapOptions& options, std::unique_ptr<ClusterProbe> probe)
      : options_(options),
        probe_(std::move(probe)),
        json_(std::make_shared<const std::string>(ClusterMapJson(options, {}))),
        thread_([this] { Run(); }) {}

  ~Map() override {
    {
      absl::MutexLock lock(&mutex_);
      ending_ = true;
    }
    thread_.join();
  }

  std::shared_ptr<const std::string> Json() override {
    absl::MutexLock lock(&mutex_);
    wanted_until_ = absl::Now() + options_.idle_after;
    return json_;
  }

 private:
  bool Wanted() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return ending_ || wanted_until_ > absl::Now(); }
  bool Ending() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return ending_; }

  void Run() {
    while (true) {
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(this, &Map::Wanted));
        if (ending_) return;
      }
      auto json = std::make_shared<const std::string>(ClusterMapJson(options_, probe_->Take(kTimeout)));
      absl::MutexLock lock(&mutex_);
      json_ = std::move(json);
      mutex_.AwaitWithTimeout(absl::Condition(this, &Map::Ending), options_.refresh_interval);
    }
  }

  const ClusterMapOptions options_;
  const std::unique_ptr<ClusterProbe> probe_;  // used by the thread alone
  absl::Mutex mutex_;
  absl::Time wanted_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<const std::string> json_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;  // last: it uses the others
};

}  // namespace

std::string ClusterMapJson(const ClusterMapOptions& options, const ClusterSnapshot& snapshot) {
  const ClusterActivity activity = ActivityBetween(nullptr, snapshot);
  uint64_t epoch = 0;
  for (const RouterSnapshot& router : snapshot.routers) epoch = std::max(epoch, router.experts.placement_epoch());
  JsonWriter json;
  json.BeginObject().Key("model").Text(options.model).Key("placement_epoch").Number(static_cast<int64_t>(epoch));
  json.Key("experts_per_token").Number(options.experts_per_token).Key("attention_services").BeginArray();
  for (size_t i = 0; i < snapshot.routers.size(); ++i) WriteRouter(snapshot.routers[i], i, json);
  json.End().Key("shards").BeginArray();
  for (const ShardActivity& shard : activity.shards) WriteShard(shard, json);
  json.End().Key("layers").BeginArray();
  for (const auto& [layer, tokens] : activity.layers) {
    json.BeginObject().Key("layer").Number(layer).Key("tokens").BeginArray();
    for (const uint64_t count : tokens) json.Number(static_cast<int64_t>(count));
    json.End().End();
  }
  return json.End().End().text();
}

std::unique_ptr<ClusterMap> ClusterMap::Create(const ClusterMapOptions& options, std::unique_ptr<ClusterProbe> probe) {
  return std::make_unique<Map>(options, std::move(probe));
}

}  // namespace conclave
