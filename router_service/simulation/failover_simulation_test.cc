// Random fault schedules of a router and its shards in virtual time: 10,000 of them, or 1,000,000 with
// CONCLAVE_TEST_FULL=1. Whatever happens, every row that comes back is the right one, every call and every ticket ends,
// hedges stay within their budget, and a ticket fails only where no healthy shard could have helped.
//   failover_simulation_test --seed=N          one schedule, told step by step
//   failover_simulation_test --schedules=N     so many, by the seeds from --from=1
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "moe/base/log.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/kernels/kernels.h"
#include "moe/model/numeric_profile.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/fake_expert_handler.h"
#include "router_service/remote_experts.h"
#include "router_service/simulation/sim_faults.h"
#include "router_service/simulation/sim_transport.h"
#include "router_service/simulation/sim_world.h"

namespace conclave {
namespace {

constexpr int kHidden = 2, kLayers = 2, kExperts = 8, kTopK = 3, kRowsMax = 4, kTickets = 16;
constexpr absl::Duration kTimeout = absl::Seconds(5), kHealedAt = absl::Seconds(8);
// A holder that has been well for so long must have been found: the longest pause between two questions, a question
// that was asked just before, a call that is given up, and some.
constexpr absl::Duration kFoundWithin = absl::Milliseconds(3000);
// And so long, if it had to load the expert first: a request to load that got lost takes two seconds.
constexpr absl::Duration kLoadedWithin = absl::Milliseconds(4500);

ModelSpec Spec() {
  ModelSpec spec;
  spec.hidden = kHidden;
  spec.layers = kLayers;
  spec.dense_layers_first = 0;
  spec.gate.experts = kExperts;
  spec.gate.top_k = kTopK;
  return spec;
}

// The rows of one ticket: no two values of a simulation are equal, so that a row in a wrong place shows.
struct Rows {
  Rows(SimRandom& random, int number) : x(DType::kF32, 1 + random.Below(kRowsMax), kHidden) {
    for (int64_t row = 0; row < x.view().rows; ++row) {
      for (int col = 0; col < kHidden; ++col) {
        x.view().Row<float>(row)[col] = static_cast<float>((number * kRowsMax + row) * kHidden + col + 1);
      }
      uint64_t chosen = 0;
      while (__builtin_popcountll(chosen) < kTopK) chosen |= uint64_t{1} << random.Below(kExperts);
      for (int expert = 0; expert < kExperts; ++expert) {
        if (chosen >> expert & 1) experts.push_back(expert);
      }
    }
    routing.top_k = kTopK;
    routing.experts = experts;
    layer = LayerId{random.Below(kLayers)};
    out = MatBuffer(DType::kF32, static_cast<int64_t>(experts.size()), kHidden);
    std::memset(out.view().data, 0xff, out.bytes());  // NaN
  }
  MatBuffer x, out;
  std::vector<int32_t> experts;
  Routing routing;
  LayerId layer{0};
  absl::Time begun;
  ExpertTicket ticket;
};

// One schedule. Run returns what went wrong, or an empty text.
class Simulation {
 public:
  Simulation(uint64_t seed, bool traced) : world_(seed) {
    world_.traced = traced;
    const int shards = 2 + world_.random.Below(4);
    const int replicas = 1 + world_.random.Below(std::min(shards, 3));
    world_.expected.model_fingerprint = "model";
    world_.expected.numeric_profile = NumericProfile(ReferenceKernels(Compute::kF32));
    world_.expected.hidden = kHidden;
    world_.expected.row_dtype = DType::kF32;
    for (int i = 0; i < shards; ++i) {
      SimShard& shard = world_.shards.emplace_back();
      shard.initial.assign(kLayers, 0);
      for (const ExpertId expert : ExpertsOfShard(kExperts, i, shards, replicas)) {
        for (uint64_t& bits : shard.initial) bits |= uint64_t{1} << Value(expert);
      }
      shard.held = shard.initial;
      shard.secret.assign(kLayers, 0);
    }
    transport_ = std::make_unique<SimTransport>(world_);
    ScheduleFaults(world_, *transport_, world_.random.Below(world_.random.Chance(0.25) ? 60 : 12), kHealedAt);
    world_.Trace(absl::StrCat(shards, " shards, every expert on ", replicas));
  }

  std::string Run() {
    if (std::string wrong = Connect(); !wrong.empty()) return wrong;
    for (int number = 0; number < kTickets; ++number) {
      const bool pair = world_.random.Chance(0.3);
      std::string wrong = RunTickets(number, pair ? 2 : 1);
      if (!wrong.empty()) return wrong;
      world_.RunUntil(world_.Now() + world_.random.Around(kHealedAt / kTickets));
    }
    // When all is well, and what was asked before has been answered, everything works.
    world_.RunUntil(std::max(world_.Now(), absl::UnixEpoch() + kHealedAt));
    for (int number = kTickets; number < kTickets + 3; ++number) {
      if (std::string wrong = RunTickets(number, 1); !wrong.empty()) return wrong;
      if (failed_ > 0 && last_failed_ >= kTickets) return "a ticket failed though all was well";
    }
    return CheckBooks();
  }

  int64_t failed() const { return failed_; }
  FailoverCounts counts() const { return pool_->counts(); }

 private:
  std::string Connect() {
    std::vector<ShardDescription> descriptions;
    for (size_t i = 0; i < world_.shards.size(); ++i) {
      const bool known = world_.random.Chance(0.9);
      ShardDescription unknown;
      unknown.name = absl::StrCat("address-", i);
      descriptions.push_back(known ? world_.Describe(ShardId{static_cast<int32_t>(i)}) : unknown);
    }
    RemoteExpertsOptions options;
    options.rows_max = kRowsMax;
    options.model_fingerprint = "model";
    options.timeout = kTimeout;
    options.late_min = absl::Milliseconds(20);
    options.late_max = absl::Seconds(1);
    options.hedge_min = absl::Microseconds(500);
    options.hedge_share = kHedgeShare;
    options.control = &control_;
    options.clock = &world_;
    auto pool = RemoteExperts::Create(Spec(), ReferenceKernels(Compute::kF32), *transport_, descriptions, options);
    if (!pool.ok()) return absl::StrCat("no pool: ", pool.status().ToString());
    pool_ = *std::move(pool);
    return "";
  }

  std::string RunTickets(int number, int count) {
    std::vector<std::unique_ptr<Rows>> rows;
    for (int i = 0; i < count; ++i) {
      rows.push_back(std::make_unique<Rows>(world_.random, number * 2 + i));
      rows.back()->begun = world_.Now();
      const auto ticket = pool_->Start(rows.back()->layer, rows.back()->x.view(), rows.back()->routing);
      if (!ticket.ok()) return absl::StrCat("Start: ", ticket.status().ToString());
      rows.back()->ticket = *ticket;
      world_.Trace(absl::StrCat("ticket ", ticket->id, ": ", rows.back()->x.view().rows, " rows"));
    }
    // In either order.
    if (count == 2 && world_.random.Chance(0.5)) std::swap(rows[0], rows[1]);
    for (const auto& each : rows) {
      const absl::Status status = pool_->Finish(each->ticket, each->out.view());
      world_.Trace(absl::StrCat("ticket ", each->ticket.id, ": ", status.ToString()));
      std::string wrong = status.ok() ? CheckRows(*each) : CheckFailure(*each, status);
      if (!wrong.empty()) return wrong;
      if (!status.ok()) ++failed_, last_failed_ = number;
    }
    if (transport_->in_flight() != 0) return absl::StrCat(transport_->in_flight(), " calls never ended");
    return "";
  }

  static std::string CheckRows(const Rows& rows) {
    for (size_t p = 0; p < rows.experts.size(); ++p) {
      for (int col = 0; col < kHidden; ++col) {
        const float want = FakeExpertValue(rows.x.view().Row<float>(p / kTopK)[col], rows.layer, rows.experts[p]);
        const float got = rows.out.view().Row<float>(p)[col];
        if (std::memcmp(&want, &got, sizeof(want)) != 0) return absl::StrCat("pair ", p, ": ", got, " for ", want);
      }
    }
    return "";
  }

  // A ticket may fail at its deadline alone, with a sentence, and only where nobody could have helped.
  std::string CheckFailure(const Rows& rows, const absl::Status& status) {
    if (!absl::IsUnavailable(status)) return absl::StrCat("failed with ", status.ToString());
    if (world_.Now() < rows.begun + kTimeout) return "failed before its deadline";
    absl::string_view rest = status.message();
    int named = -1;
    const bool names = absl::ConsumePrefix(&rest, absl::StrCat("layer ", Value(rows.layer), " expert ")) &&
                       absl::SimpleAtoi(rest.substr(0, rest.find(':')), &named);
    if (!names || named < 0 || named >= kExperts) return absl::StrCat("names no expert: ", status.ToString());
    int healthy = 0;
    for (const SimShard& shard : world_.shards) {
      healthy += shard.clean_since <= world_.Now() - kLoadedWithin;
      if (shard.clean_since > world_.Now() - kFoundWithin) continue;
      if ((shard.held[Value(rows.layer)] & ~shard.secret[Value(rows.layer)]) >> named & 1)
        return "failed though a holder has been well for long";
    }
    // An expert without a holder is loaded by one that is there.
    if (healthy == static_cast<int>(world_.shards.size())) return "failed though every shard has been well for long";
    return "";
  }

  std::string CheckBooks() const {
    if (transport_->calls() != transport_->dones()) {
      return absl::StrCat(transport_->calls(), " calls, ", transport_->dones(), " ends");
    }
    if (transport_->stale_rows() != 0) return "rows of a stale epoch were used";
    const FailoverCounts& counts = pool_->counts();
    if (static_cast<double>(counts.hedged_pairs) > kHedgeShare * static_cast<double>(counts.sent_pairs)) {
      return absl::StrCat(counts.hedged_pairs, " pairs hedged of ", counts.sent_pairs);
    }
    return "";
  }

  static constexpr double kHedgeShare = 0.1;
  SimWorld world_;
  SimControl control_{world_};
  std::unique_ptr<SimTransport> transport_;
  std::unique_ptr<RemoteExperts> pool_;
  int64_t failed_ = 0;
  int last_failed_ = -1;
};

int RunMany(uint64_t first_seed, int64_t schedules, bool traced) {
  int64_t failed_tickets = 0, sent = 0, resent = 0, hedged = 0;
  int wrong_schedules = 0;
  for (int64_t i = 0; i < schedules; ++i) {
    const uint64_t seed = first_seed + static_cast<uint64_t>(i);
    Simulation simulation(seed, traced);
    const std::string wrong = simulation.Run();
    if (!wrong.empty()) {
      std::printf("FAILED: seed %llu: %s\n  again, step by step: failover_simulation_test --seed=%llu\n",
                  static_cast<unsigned long long>(seed), wrong.c_str(), static_cast<unsigned long long>(seed));
      if (++wrong_schedules >= 5) return 1;
      continue;
    }
    failed_tickets += simulation.failed();
    sent += simulation.counts().sent_pairs;
    resent += simulation.counts().resent_pairs;
    hedged += simulation.counts().hedged_pairs;
  }
  std::printf("%lld schedules of up to 59 faults: %lld rows sent, %lld sent again, %lld hedged, %lld tickets failed\n",
              static_cast<long long>(schedules), static_cast<long long>(sent), static_cast<long long>(resent),
              static_cast<long long>(hedged), static_cast<long long>(failed_tickets));
  // A simulation in which nothing goes wrong proves nothing.
  // Tickets seldom fail: a few in ten thousand schedules.
  const bool eventful =
      schedules < 1000 || (resent > schedules && hedged > schedules / 10 && (schedules < 10000 || failed_tickets > 0));
  if (!eventful) std::printf("FAILED: too little happened\n");
  return wrong_schedules == 0 && eventful ? 0 : 1;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  conclave::SetLogLevel(conclave::LogLevel::kError);  // what routers say of dead shards would fill the log
  const auto is_set = [](const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr && absl::string_view(value) == "1";
  };
  int64_t schedules = is_set("CONCLAVE_TEST_SHORT") ? 1000 : is_set("CONCLAVE_TEST_FULL") ? 1000000 : 10000;
  uint64_t from = 1;
  for (int i = 1; i < argc; ++i) {
    absl::string_view flag = argv[i];
    uint64_t seed = 0;
    if (absl::ConsumePrefix(&flag, "--seed=") && absl::SimpleAtoi(flag, &seed)) return conclave::RunMany(seed, 1, true);
    if (absl::ConsumePrefix(&flag, "--schedules=") && absl::SimpleAtoi(flag, &schedules)) continue;
    if (absl::ConsumePrefix(&flag, "--from=") && absl::SimpleAtoi(flag, &from)) continue;
    std::printf("usage: failover_simulation_test [--seed=N | --schedules=N --from=N]\n");
    return 2;
  }
  return conclave::RunMany(from, schedules, false);
}
