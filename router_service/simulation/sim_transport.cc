#include "router_service/simulation/sim_transport.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/transport/checksum.h"
#include "moe/transport/fake_expert_handler.h"

namespace conclave {
namespace {

constexpr absl::Duration kPairTime = absl::Microseconds(20);

}  // namespace

// A call on its way out, then its reply on its way back.
struct SimTransport::Message {
  ShardId shard{0};
  uint64_t call_id = 0, epoch = 0, run_epoch = 0, connection = 0, checksum = 0;
  LayerId layer{0};
  int64_t columns = 0;
  std::vector<float> rows;
  std::vector<uint32_t> row_offsets;
  std::vector<int32_t> experts;
  absl::Status status;
  bool damaged = false;
};

void SimTransport::Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) {
  ++calls_;
  world_.Trace(absl::StrCat("  call ", call.call_id, " to shard ", Value(shard), ": ", call.pairs(), " pairs, for ",
                            absl::FormatDuration(call.deadline - world_.Now())));
  if (!table_.Add(shard, shards(), call, out,
                  [this, id = call.call_id, done = std::move(done)](const absl::Status& status) {
                    ++dones_;
                    world_.Trace(absl::StrCat("  call ", id, ": ", status.ToString()));
                    done(status);
                  })) {
    return;
  }
  Link& link = links_[Value(shard)];
  if (link.broken) return table_.End(call.call_id, absl::UnavailableError("no connection"));
  auto message = std::make_shared<Message>();
  message->shard = shard;
  message->call_id = call.call_id;
  message->epoch = call.placement_epoch;
  message->connection = link.connection;
  message->layer = call.layer;
  message->columns = call.rows.cols;
  for (int64_t row = 0; row < call.rows.rows; ++row) {
    message->rows.insert(message->rows.end(), call.rows.Row<float>(row), call.rows.Row<float>(row) + call.rows.cols);
  }
  message->row_offsets.assign(call.row_offsets.begin(), call.row_offsets.end());
  message->experts.assign(call.experts.begin(), call.experts.end());
  SimShard& target = world_.shards[Value(shard)];
  message->damaged = world_.random.Chance(target.damage);
  const int copies = world_.random.Chance(target.doubling) ? 2 : 1;
  for (int copy = 0; copy < copies; ++copy) {
    absl::Duration delay;
    if (world_.Travels(target, /*to_shard=*/true, &delay)) world_.After(delay, [this, message] { Arrive(message); });
  }
}

void SimTransport::Cancel(uint64_t call_id) { table_.End(call_id, absl::CancelledError("taken back")); }

void SimTransport::Arrive(std::shared_ptr<Message> message) {
  SimShard& shard = world_.shards[Value(message->shard)];
  if (message->connection != links_[Value(message->shard)].connection) return;
  const absl::Duration work = kPairTime * static_cast<int64_t>(message->experts.size());
  world_.RunOn(shard, work, [this, message] { Run(*message); });
}

// What a shard does: checks, then computes.
void SimTransport::Run(const Message& message) {
  const SimShard& shard = world_.shards[Value(message.shard)];
  auto reply = std::make_shared<Message>(message);
  reply->rows.clear();
  reply->damaged = false;
  reply->run_epoch = shard.epoch;
  const auto lacks = [&](int32_t expert) { return (shard.held[Value(message.layer)] >> expert & 1) == 0; };
  if (shard.other_model) {
    reply->status = absl::UnavailableError("another model");
  } else if (message.damaged) {
    reply->status = absl::DataLossError("checksum of the request");
  } else if (message.epoch != shard.epoch) {
    reply->status = absl::FailedPreconditionError(absl::StrCat("epoch ", message.epoch, ", here ", shard.epoch));
  } else if (std::any_of(message.experts.begin(), message.experts.end(), lacks)) {
    reply->status = absl::FailedPreconditionError("not held here");
  } else {
    for (size_t row = 0; row + 1 < message.row_offsets.size(); ++row) {
      for (uint32_t p = message.row_offsets[row]; p < message.row_offsets[row + 1]; ++p) {
        for (int64_t col = 0; col < message.columns; ++col) {
          reply->rows.push_back(
              FakeExpertValue(message.rows[row * message.columns + col], message.layer, message.experts[p]));
        }
      }
    }
  }
  Reply(reply);
}

void SimTransport::Reply(const std::shared_ptr<Message>& reply) {
  SimShard& shard = world_.shards[Value(reply->shard)];
  if (reply->status.ok()) {
    const int64_t pairs = static_cast<int64_t>(reply->experts.size());
    reply->checksum = ChecksumOfReply(reply->call_id, ViewF32(reply->rows.data(), pairs, reply->columns));
    if (world_.random.Chance(shard.damage) && !reply->rows.empty()) {
      const uint64_t bit = world_.random.Next() % (reply->rows.size() * 32);
      reinterpret_cast<uint8_t*>(reply->rows.data())[bit / 8] ^= 1 << (bit % 8);
    }
  }
  const int copies = world_.random.Chance(shard.doubling) ? 2 : 1;
  for (int copy = 0; copy < copies; ++copy) {
    absl::Duration delay;
    if (world_.Travels(shard, /*to_shard=*/false, &delay)) world_.After(delay, [this, reply] { Deliver(*reply); });
  }
}

void SimTransport::Deliver(const Message& reply) {
  const CallTable::Pending* pending = table_.Find(reply.call_id);
  if (pending == nullptr || pending->shard != reply.shard) return;  // late, or a double
  if (reply.connection != links_[Value(reply.shard)].connection) return;
  if (!reply.status.ok()) return table_.End(reply.call_id, reply.status);
  const int64_t pairs = static_cast<int64_t>(reply.experts.size());
  if (reply.checksum != ChecksumOfReply(reply.call_id, ViewF32(reply.rows.data(), pairs, reply.columns))) {
    return table_.End(reply.call_id, absl::DataLossError("checksum of the reply"));
  }
  if (reply.epoch != reply.run_epoch) stale_rows_ += pairs;
  for (int64_t p = 0; p < pairs; ++p) {
    std::copy_n(reply.rows.data() + p * reply.columns, reply.columns, pending->out.Row<float>(p));
  }
  table_.End(reply.call_id, absl::OkStatus());
}

void SimTransport::OnDeath(ShardId shard) {
  const uint64_t connection = links_[Value(shard)].connection;
  world_.After(absl::Microseconds(100) + world_.random.Around(absl::Milliseconds(3)), [this, shard, connection] {
    Link& link = links_[Value(shard)];
    if (link.connection != connection) return;
    ++link.connection;
    link.broken = true;
    table_.EndShard(shard, absl::UnavailableError("connection reset"));
  });
}

void SimTransport::OnReturn(ShardId shard) {
  const uint64_t before = links_[Value(shard)].connection;
  world_.After(world_.random.Around(absl::Milliseconds(20)), [this, shard, before] {
    Link& link = links_[Value(shard)];
    if (!world_.shards[Value(shard)].alive) return;
    // Whether the break has been noticed yet or not: calls on the old connection are lost.
    if (link.connection == before) ++link.connection;
    table_.EndShard(shard, absl::UnavailableError("connection reset"));
    link.broken = false;
  });
}

int SimTransport::Progress(absl::Duration wait) {
  const absl::Time until = world_.Now() + wait;
  while (true) {
    table_.EndExpired(world_.Now());
    if (const int ran = table_.RunDone(); ran > 0) return ran;
    if (world_.Now() >= until) return 0;
    world_.RunUntil(std::min({until, world_.NextEvent(), table_.EarliestDeadline()}));
  }
}

std::optional<ShardNews> SimControl::Next() {
  if (news_.empty()) return std::nullopt;
  ShardNews news = std::move(news_.front());
  news_.pop_front();
  return news;
}

absl::StatusOr<ShardDescription> SimControl::Answer(ShardId id, const std::vector<LayerHolding>* experts) {
  SimShard& shard = world_.shards[Value(id)];
  if (shard.other_model) return absl::FailedPreconditionError("serves another model");
  if (experts == nullptr) return world_.Describe(id);
  std::vector<uint64_t> held = shard.held;
  for (const LayerHolding& holding : *experts) {
    for (const ExpertId expert : holding.experts) held[Value(holding.layer)] |= uint64_t{1} << Value(expert);
  }
  SimShard after = shard;
  after.held = held;
  if (after.held_count() > shard.room) return absl::ResourceExhaustedError("no room");
  if (held != shard.held) ++shard.epoch;
  shard.held = std::move(held);
  world_.Trace(absl::StrCat("shard ", Value(id), " loads; epoch ", shard.epoch));
  return world_.Describe(id);
}

// One answer to every question: the shard's, or that it cannot be reached, or that its time is over.
void SimControl::Ask(ShardId id, const std::vector<LayerHolding>* experts, absl::Duration timeout) {
  SimShard& shard = world_.shards[Value(id)];
  world_.Trace(absl::StrCat("  shard ", Value(id), " is asked ", experts ? "to load" : "what it holds"));
  const bool of_load = experts != nullptr;
  auto open = std::make_shared<bool>(true);
  const auto answer = [this, id, of_load, open](absl::StatusOr<ShardDescription> description) {
    if (!std::exchange(*open, false)) return;
    world_.Trace(absl::StrCat("  shard ", Value(id), " answers: ", description.status().ToString()));
    news_.push_back({id, of_load, std::move(description)});
  };
  absl::Duration delay;
  if (!shard.alive) {
    world_.After(absl::Milliseconds(1), [answer] { answer(absl::UnavailableError("connection refused")); });
    return;
  }
  world_.After(timeout, [answer] { answer(absl::DeadlineExceededError("did not answer")); });
  if (!world_.Travels(shard, /*to_shard=*/true, &delay)) return;
  auto wanted = of_load ? std::make_shared<std::vector<LayerHolding>>(*experts) : nullptr;
  world_.After(delay, [this, id, &shard, wanted, answer] {
    const absl::Duration work = wanted ? world_.random.Around(absl::Milliseconds(20)) : absl::Microseconds(50);
    if (!shard.alive) return answer(absl::UnavailableError("connection reset"));
    world_.RunOn(shard, work, [this, id, &shard, wanted, answer] {
      absl::StatusOr<ShardDescription> description = Answer(id, wanted.get());
      absl::Duration back;
      if (!world_.Travels(shard, /*to_shard=*/false, &back)) return;
      world_.After(back, [answer, description] { answer(description); });
    });
  });
}

}  // namespace conclave
