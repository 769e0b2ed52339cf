#include "moe/transport/faulty/faulty_transport.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "moe/tensor/buffer.h"
#include "moe/transport/checksum.h"
#include "moe/transport/copy_rows.h"

namespace conclave {

// One message on its way, with copies of all that it points to: the caller's memory may go before it lands.
struct FaultyTransport::Flight {
  uint64_t outer_id = 0;
  MatBuffer rows, out;
  std::vector<uint32_t> row_offsets;
  std::vector<int32_t> experts;
  ExpertCall call;
  bool reply_dropped = false, corrupt_status = false, corrupt_bytes = false;
  uint64_t corrupt_bit = 0;
  absl::Duration delay;
  absl::Time due;
  absl::Status status;
};

FaultyTransport::FaultyTransport(Transport& inner, const FaultyOptions& options, Clock* clock)
    : inner_(inner), options_(options), clock_(clock), random_(options.seed) {}

FaultyTransport::~FaultyTransport() {
  // The inner transport writes into flights until it has called their Done.
  while (!flights_.empty()) inner_.Progress(absl::Milliseconds(10));
}

double FaultyTransport::Uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

bool FaultyTransport::Draw(double probability) { return Uniform() < probability; }

void FaultyTransport::Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) {
  if (!table_.Add(shard, shards(), call, out, std::move(done))) return;
  ++counts_.calls;
  // Every draw is made for every call, so that one probability does not shift the others' draws.
  const bool request_dropped = Draw(options_.drop_request);
  const bool reply_dropped = Draw(options_.drop_reply);
  const bool duplicated = Draw(options_.duplicate);
  counts_.dropped += request_dropped || reply_dropped;
  if (!request_dropped) Launch(shard, call, reply_dropped);
  counts_.duplicated += duplicated;
  if (duplicated) Launch(shard, call, false);
}

void FaultyTransport::Cancel(uint64_t call_id) { table_.End(call_id, absl::CancelledError("the caller took it back")); }

void FaultyTransport::Launch(ShardId shard, const ExpertCall& call, bool reply_dropped) {
  auto flight = std::make_unique<Flight>();
  flight->outer_id = call.call_id;
  flight->rows = MatBuffer(call.rows.dtype, call.rows.rows, call.rows.cols);
  CopyRows(call.rows, flight->rows.view());
  flight->out = MatBuffer(call.rows.dtype, call.pairs(), call.rows.cols);
  flight->row_offsets.assign(call.row_offsets.begin(), call.row_offsets.end());
  flight->experts.assign(call.experts.begin(), call.experts.end());
  flight->reply_dropped = reply_dropped;
  flight->corrupt_status = Draw(options_.corrupt_status);
  flight->corrupt_bytes = Draw(options_.corrupt_bytes);
  flight->corrupt_bit = random_();
  flight->delay = options_.delay_max * Uniform();
  if (!Draw(options_.delay)) flight->delay = absl::ZeroDuration();
  counts_.delayed += flight->delay > absl::ZeroDuration();
  flight->call = call;
  flight->call.call_id = next_flight_++;
  flight->call.rows = flight->rows.view();
  flight->call.row_offsets = flight->row_offsets;
  flight->call.experts = flight->experts;
  const uint64_t id = flight->call.call_id;
  Flight& stays = *(flights_[id] = std::move(flight));
  inner_.Call(shard, stays.call, stays.out.view(), [this, id](const absl::Status& status) {
    const auto found = flights_.find(id);
    std::unique_ptr<Flight> landed = std::move(found->second);
    flights_.erase(found);
    landed->status = status;
    landed->due = clock_->Now() + landed->delay;
    if (!landed->reply_dropped) landed_.push_back(std::move(landed));
  });
}

void FaultyTransport::Deliver(Flight& flight) {
  const CallTable::Pending* pending = table_.Find(flight.outer_id);
  if (pending == nullptr) {
    ++counts_.replies_unwanted;
    return;
  }
  if (flight.status.ok() && flight.corrupt_status) {
    ++counts_.corrupted;
    flight.status = absl::DataLossError("reply: damaged on the way");
  }
  if (flight.status.ok() && flight.corrupt_bytes && flight.out.bytes() > 0) {
    ++counts_.corrupted;
    const uint64_t checksum = ChecksumOfReply(flight.outer_id, flight.out.view());
    const uint64_t bit = flight.corrupt_bit % static_cast<uint64_t>(flight.out.bytes() * 8);
    static_cast<std::byte*>(flight.out.view().data)[bit / 8] ^= std::byte{1} << (bit % 8);
    if (options_.checksum && ChecksumOfReply(flight.outer_id, flight.out.view()) != checksum) {
      flight.status = absl::DataLossError("reply: damaged on the way: its checksum is wrong");
    }
  }
  if (flight.status.ok()) CopyRows(flight.out.view(), pending->out);
  table_.End(flight.outer_id, std::move(flight.status));
}

// Returns when the next reply is due.
absl::Time FaultyTransport::DeliverDue(absl::Time now) {
  absl::Time next = absl::InfiniteFuture();
  for (size_t i = 0; i < landed_.size();) {
    if (landed_[i]->due > now) {
      next = std::min(next, landed_[i]->due);
      ++i;
      continue;
    }
    const std::unique_ptr<Flight> flight = std::move(landed_[i]);
    landed_.erase(landed_.begin() + static_cast<ptrdiff_t>(i));
    Deliver(*flight);
  }
  return next;
}

int FaultyTransport::Progress(absl::Duration wait) {
  absl::Time until = absl::InfinitePast();  // by clock_; set when first waited
  while (true) {
    const absl::Time now = clock_->Now();
    const absl::Time due = DeliverDue(now);
    table_.EndExpired(now);
    if (const int ran = table_.RunDone(); ran > 0) return ran;
    if (until == absl::InfinitePast()) until = now + wait;
    if (now >= until) {
      inner_.Progress(absl::ZeroDuration());
      DeliverDue(clock_->Now());
      return table_.RunDone();
    }
    const absl::Duration pause = std::min({until, due, table_.EarliestDeadline()}) - now;
    // A clock that stands still must not keep us here: whoever moves it is waiting for us.
    if (inner_.Progress(std::max(pause, absl::ZeroDuration())) == 0 && clock_->Now() == now) {
      DeliverDue(now);
      return table_.RunDone();
    }
  }
}

}  // namespace conclave
