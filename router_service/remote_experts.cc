#include "router_service/remote_experts.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/limits.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/model/numeric_profile.h"

namespace conclave {
namespace {

// Between two calls of one ticket to a shard that failed it.
constexpr absl::Duration kPauseMin = absl::Milliseconds(2);
constexpr absl::Duration kPauseMax = absl::Seconds(1);
// After so many failures of the only holder that is known, others are asked whether they hold its experts by now, and
// after so many, to load them: a shard may answer questions and be no use for rows.
constexpr int kStrikesToAskOthers = 3, kStrikesToGiveUp = 6;
// How often answers of shards are looked for while some are awaited.
constexpr absl::Duration kNewsPause = absl::Milliseconds(1);
constexpr absl::Duration kIdleWait = absl::Milliseconds(100);
// Rows without a holder for so long are no short gap, in which one shard takes over from another.
constexpr absl::Duration kStalled = absl::Milliseconds(100);

constexpr ShardId kNobody{-1};

// Whether another holder, or the same once more, may do better.
bool MayResend(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kCancelled:
      return true;
    default:
      return false;
  }
}

std::vector<LayerId> MoeLayers(const ModelSpec& spec) {
  std::vector<LayerId> layers;
  for (int layer = 0; layer < spec.layers; ++layer) {
    if (spec.IsMoe(LayerId{layer})) layers.push_back(LayerId{layer});
  }
  return layers;
}

// Tickets are numbered in the order of layers, which must not show in what depends on this.
uint64_t Scatter(uint64_t ticket) { return (ticket * 0x9e3779b97f4a7c15) >> 32; }

int64_t BytesOf(const ConstMatView& rows) { return rows.rows * rows.cols * SizeOf(rows.dtype); }

int64_t PayloadBytes(const ExpertCall& call) {
  const bool packed = call.format == RowFormat::kFp8;
  return (packed ? call.rows.rows * Fp8RowBytes(call.rows.cols) : BytesOf(call.rows)) +
         static_cast<int64_t>((call.row_offsets.size() + call.experts.size()) * sizeof(int32_t));
}

// kTicketsMax of them, on `device`.
absl::StatusOr<std::vector<std::unique_ptr<LayerTicket>>> MakeTickets(const ModelSpec& spec, DType row_dtype,
                                                                      int shards, Device device,
                                                                      const RemoteExpertsOptions& options) {
  const GateSpec& gate = spec.gate;
  std::vector<std::unique_ptr<LayerTicket>> tickets;
  for (int i = 0; i < RemoteExperts::kTicketsMax; ++i) {
    if (device == Device::kCpu) {
      tickets.push_back(std::make_unique<LayerTicket>(options.rows_max, gate.top_k, gate.experts, shards, spec.hidden,
                                                      row_dtype, options.row_format, options.memory));
      continue;
    }
    ASSIGN_OR_RETURN(tickets.emplace_back(), LayerTicket::OnDevice(*options.accelerator, options.rows_max, gate.top_k,
                                                                   gate.experts, shards, spec.hidden, row_dtype));
  }
  return tickets;
}

absl::Status CheckOptions(const ModelSpec& spec, const RemoteExpertsOptions& options) {
  if (options.rows_max < 1 || options.rows_max > limits::kCallRowsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows_max: ", options.rows_max, " is not in [1, ", limits::kCallRowsMax, "]"));
  }
  const int64_t reply_bytes = int64_t{options.rows_max} * spec.gate.top_k * spec.hidden * SizeOf(DType::kF32);
  if (reply_bytes > limits::kCallBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("rows_max: ", options.rows_max, " rows make replies of up to ",
                                                   reply_bytes, " bytes, at most ", limits::kCallBytesMax,
                                                   " are possible; lower the rows of one step"));
  }
  if (options.timeout <= absl::ZeroDuration() || options.late_min <= absl::ZeroDuration() ||
      options.late_max < options.late_min) {
    return absl::InvalidArgumentError("timeout, late_min: must be positive, and late_max no less than late_min");
  }
  if (options.hedge_share < 0 || options.hedge_share > 1) {
    return absl::InvalidArgumentError(absl::StrCat("hedge_share: ", options.hedge_share, " is not in [0, 1]"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RemoteExperts>> RemoteExperts::Create(const ModelSpec& spec, const Kernels& kernels,
                                                                     Transport& transport,
                                                                     const std::vector<ShardDescription>& shards,
                                                                     const RemoteExpertsOptions& options) {
  RETURN_IF_ERROR(CheckOptions(spec, options));
  if (shards.empty() || static_cast<int>(shards.size()) != transport.shards()) {
    return absl::InvalidArgumentError(
        absl::StrCat("shards: ", shards.size(), " descriptions for ", transport.shards(), " shards"));
  }
  MembershipOptions membership_options;
  membership_options.expected.model_fingerprint = options.model_fingerprint;
  membership_options.expected.numeric_profile = NumericProfile(kernels);
  membership_options.expected.hidden = spec.hidden;
  membership_options.expected.row_dtype = RowDType(kernels.compute);
  membership_options.allow_mixed_numerics = options.allow_mixed_numerics;
  membership_options.experts = spec.gate.experts;
  membership_options.metrics = options.metrics;
  membership_options.layers = MoeLayers(spec);
  std::vector<std::string> names;
  for (const ShardDescription& shard : shards) names.push_back(shard.name);
  ASSIGN_OR_RETURN(auto membership, ShardMembership::Create(shards, options.control, membership_options));
  if (options.control == nullptr) RETURN_IF_ERROR(membership->placement()->CheckComplete());
  const bool on_device = options.accelerator != nullptr && options.row_format == RowFormat::kCompute &&
                         transport.rows_device() == Device::kCuda;
  const Device device = on_device ? Device::kCuda : Device::kCpu;
  ASSIGN_OR_RETURN(auto tickets, MakeTickets(spec, RowDType(kernels.compute), transport.shards(), device, options));
  return absl::WrapUnique(new RemoteExperts(spec, kernels, transport, std::move(membership), names, device,
                                            std::move(tickets), options));
}

RemoteExperts::RemoteExperts(const ModelSpec& spec, const Kernels& kernels, Transport& transport,
                             std::unique_ptr<ShardMembership> membership, const std::vector<std::string>& names,
                             Device row_device, std::vector<std::unique_ptr<LayerTicket>> tickets,
                             const RemoteExpertsOptions& options)
    : kernels_(kernels),
      transport_(transport),
      options_(options),
      row_dtype_(RowDType(kernels.compute)),
      row_device_(row_device),
      hidden_(spec.hidden),
      top_k_(spec.gate.top_k),
      experts_(spec.gate.experts),
      membership_(std::move(membership)),
      health_(names, options.outliers, options.metrics),
      hedge_budget_(options.hedge_share),
      metrics_(options.metrics),
      shard_tokens_(MoeLayers(spec), names, options.metrics),
      tickets_(std::move(tickets)) {
  const int shards = static_cast<int>(names.size());
  for (int shard = 0; shard < shards; ++shard) {
    health_.SetReachable(ShardId{shard}, membership_->Usable(ShardId{shard}));
  }
  flights_.reserve(size_t{kTicketsMax} * shards);
  batch_.reserve(int64_t{options.rows_max} * top_k_);
}

// The usable holder that the ticket has least against, not ejected, then with the least to do; of equal ones another
// each time, or the first would get more in the long run. Whom it picks changes no bit of the result.
bool RemoteExperts::PickHolder(LayerTicket& ticket, int32_t expert, absl::Span<const ShardId> holders, absl::Time now,
                               ShardId* shard) {
  const auto cost = [&](int place) {
    const ShardId holder = holders[static_cast<size_t>(place)];
    return std::make_tuple(ticket.grudge(holder).strikes, health_.Ejected(holder, now),
                           ticket.loads.With(holder, expert, place));
  };
  int best = -1;
  const size_t first = holders.size() < 2 ? 0 : Scatter(ticket.id) % holders.size();
  for (size_t i = 0; i < holders.size(); ++i) {
    const int place = static_cast<int>((first + i) % holders.size());
    const ShardId holder = holders[static_cast<size_t>(place)];
    if (!membership_->Usable(holder) || now < ticket.grudge(holder).pause_until) continue;
    if (best < 0 || cost(place) < cost(best)) best = place;
  }
  if (best < 0) return false;
  *shard = holders[static_cast<size_t>(best)];
  ticket.loads.Give(*shard, expert, best);
  return true;
}

// Whether every row of the message that is still missing could come from another shard, which has not failed this
// ticket. It may be ejected: a slow answer is better than none.
bool RemoteExperts::HasAlternative(LayerTicket& ticket, const ShardMessage& message) const {
  for (const RoutedPair& pair : message.pairs) {
    if (ticket.has_row(pair)) continue;
    const absl::Span<const ShardId> holders = membership_->Holders(ticket.layer, ExpertId{pair.expert});
    const bool found = std::any_of(holders.begin(), holders.end(), [&](ShardId holder) {
      return holder != message.shard && membership_->Usable(holder) && ticket.grudge(holder).strikes == 0;
    });
    if (!found) return false;
  }
  return true;
}

absl::StatusOr<ExpertTicket> RemoteExperts::Start(LayerId layer, ConstMatView x, const Routing& routing) {
  if (x.rows > options_.rows_max || routing.top_k > top_k_) {
    return absl::ResourceExhaustedError(absl::StrCat(x.rows, " rows of ", routing.top_k, " experts; the pool holds ",
                                                     options_.rows_max, " of ", top_k_));
  }
  CONCLAVE_CHECK(x.cols == hidden_ && x.device == row_device_ &&
                 x.dtype == (row_device_ == Device::kCpu ? DType::kF32 : row_dtype_))
      << Name(x.dtype) << " of " << x.cols;
  CONCLAVE_CHECK(row_device_ == Device::kCpu || static_cast<int64_t>(routing.fault_layers.size()) == x.rows);
  CONCLAVE_CHECK(static_cast<int64_t>(routing.experts.size()) == x.rows * routing.top_k) << routing.experts.size();
  const bool has_layer = membership_->HasLayer(layer);
  for (const int32_t expert : routing.experts) {
    if (has_layer && expert >= 0 && expert < experts_) continue;
    return absl::InvalidArgumentError(absl::StrCat("layer ", Value(layer), " has no expert ", expert));
  }
  const auto idle = std::find_if(tickets_.begin(), tickets_.end(), [](const auto& each) { return each->id == 0; });
  if (idle == tickets_.end()) {
    return absl::ResourceExhaustedError(absl::StrCat(kTicketsMax, " tickets are in flight already"));
  }
  LayerTicket& ticket = **idle;
  const absl::Time now = options_.clock->Now();
  ticket.Begin(++last_ticket_, layer, x, routing,
               std::min(std::min(now, step_since_) + options_.timeout, step_deadline_),
               transport_.MayFreeDeviceMemory());
  const int64_t pairs = static_cast<int64_t>(routing.experts.size());
  counts_.sent_pairs += pairs;
  hedge_budget_.OnSent(pairs);
  Pump(now);
  metrics_.ObserveDispatch(options_.clock->Now() - now);
  return ExpertTicket{ticket.id};
}

// Everything that is due: news of shards, second copies, rows that have no call.
void RemoteExperts::Pump(absl::Time now) {
  if (membership_->Poll(now)) {
    for (int shard = 0; shard < transport_.shards(); ++shard) {
      health_.SetReachable(ShardId{shard}, membership_->Up(ShardId{shard}));
      if (membership_->Gone(ShardId{shard})) TakeBackFrom(ShardId{shard});
    }
  }
  for (size_t i = 0; i < flights_.size(); ++i) {  // by index: Hedge adds flights
    if (flights_[i].message == nullptr) continue;
    if (now >= flights_[i].suspect_at) {
      flights_[i].suspect_at = absl::InfiniteFuture();
      membership_->OnSuspect(flights_[i].message->shard, now);
    }
    if (now >= flights_[i].hedge_at) Hedge(flights_[i], now);
  }
  for (auto& ticket : tickets_) {
    if (ticket->id != 0 && ticket->failure.ok() && !ticket->open().empty()) PlanOpen(*ticket, now);
  }
}

// There is no memory to send the batch with now: its pairs stay open, and it is tried again until the deadline.
void RemoteExperts::KeepOpen(LayerTicket& ticket, const absl::Status& why) {
  ticket.last_error = why;
  ticket.PutBack(batch_);
}

// Sends the open pairs that have a holder; the others stay open.
void RemoteExperts::PlanOpen(LayerTicket& ticket, absl::Time now) {
  std::vector<RoutedPair>& open = ticket.open();
  batch_.clear();
  // First those that have no choice: copies of an expert are there to even out what these make of the shards' loads.
  const auto pick_where = [&](bool chooses) {
    size_t others = 0;
    for (RoutedPair& pair : open) {
      const absl::Span<const ShardId> holders = membership_->Holders(ticket.layer, ExpertId{pair.expert});
      if ((holders.size() > 1) != chooses) {
        ++others;
      } else if (!PickHolder(ticket, pair.expert, holders, now, &pair.shard)) {
        pair.shard = kNobody;
      }
    }
    return others;
  };
  if (pick_where(false) > 0) pick_where(true);
  size_t kept = 0;
  for (const RoutedPair& pair : open) {
    if (pair.shard != kNobody) {
      batch_.push_back(pair);
    } else {
      open[kept++] = pair;
    }
  }
  open.resize(kept);
  if (kept > 0) membership_->LoadOrphans(now);
  if (batch_.empty()) return;
  const absl::StatusOr<Dispatch*> dispatch = ticket.Send(batch_, kernels_);
  if (!dispatch.ok()) return KeepOpen(ticket, dispatch.status());
  Launch(ticket, **dispatch, /*is_hedge=*/false, now);
}

// Sends what a late call has not brought yet to other holders too, if all of it has some and the budget allows it.
void RemoteExperts::Hedge(Flight& flight, absl::Time now) {
  flight.hedge_at = absl::InfiniteFuture();
  LayerTicket& ticket = *flight.ticket;
  const ShardMessage& late = *flight.message;
  if (!HasAlternative(ticket, late)) return;
  batch_.clear();
  for (RoutedPair pair : late.pairs) {
    if (ticket.has_row(pair)) continue;
    const int strikes = std::exchange(ticket.grudge(late.shard).strikes, 1000);  // anybody but the late one
    const absl::Span<const ShardId> holders = membership_->Holders(ticket.layer, ExpertId{pair.expert});
    const bool found = PickHolder(ticket, pair.expert, holders, now, &pair.shard);
    ticket.grudge(late.shard).strikes = strikes;
    if (!found || pair.shard == late.shard) return;
    batch_.push_back(pair);
  }
  const int64_t pairs = static_cast<int64_t>(batch_.size());
  if (pairs == 0 || !hedge_budget_.Take(pairs)) return;
  const absl::StatusOr<Dispatch*> again = ticket.SendAgain(batch_, kernels_);
  if (!again.ok()) return hedge_budget_.GiveBack(pairs);  // there is no memory; the late one may answer yet
  counts_.hedged_pairs += pairs;
  metrics_.CountHedge(pairs);
  Launch(ticket, **again, /*is_hedge=*/true, now);
}

void RemoteExperts::Launch(LayerTicket& ticket, Dispatch& dispatch, bool is_hedge, absl::Time now) {
  for (ShardMessage& message : dispatch.messages()) {
    auto flight = std::find_if(flights_.begin(), flights_.end(), [](const Flight& f) { return f.message == nullptr; });
    if (flight == flights_.end()) flight = flights_.emplace(flights_.end());
    *flight = Flight{&ticket, &message, now, absl::InfiniteFuture(), absl::InfiniteFuture(), is_hedge};
    const auto high_mark = health_.latency().HighMark(message.shard, message.call.pairs());
    const bool alternative = HasAlternative(ticket, message);
    absl::Duration patience = options_.late_max;
    if (high_mark.has_value()) {
      // What failed this ticket already may be slower than we think: it gets twice the time.
      const int strikes = std::min(ticket.grudge(message.shard).strikes, 16);
      const absl::Duration late = std::max(*high_mark * options_.late_factor, options_.late_min) * (1 << strikes);
      if (alternative) {
        patience = std::min(late, options_.late_max);
        if (options_.hedge_share > 0) flight->hedge_at = now + std::max(*high_mark, options_.hedge_min);
      } else {
        flight->suspect_at = now + late;
        patience = std::min(late * 4, options_.late_max);
      }
    }
    message.call.call_id = ++last_call_;
    message.call.placement_epoch = membership_->epoch(message.shard);
    message.call.layer = ticket.layer;
    // The shard's own, not the ticket's: a shard is not late because a request was in a hurry.
    message.call.deadline = now + patience;
    ++ticket.in_flight;
    const int index = static_cast<int>(flight - flights_.begin());
    transport_.Call(message.shard, message.call, message.reply,
                    [this, index](const absl::Status& status) { OnDone(index, status); });
    flights_[static_cast<size_t>(index)].way = transport_.Way(message.shard);
    metrics_.CountSent(flights_[static_cast<size_t>(index)].way, PayloadBytes(message.call));
  }
}

void RemoteExperts::OnDone(int flight_index, const absl::Status& status) {
  const Flight flight = flights_[flight_index];
  flights_[flight_index].message = nullptr;
  LayerTicket& ticket = *flight.ticket;
  ShardMessage& message = *flight.message;
  const absl::Time now = options_.clock->Now();
  --ticket.in_flight;
  if (!status.ok()) return OnFailed(flight, status, now);
  health_.RecordAnswer(message.shard, message.call.rows.rows, message.call.pairs(), now - flight.sent, now);
  shard_tokens_.Add(ticket.layer, message.shard, message.call.pairs());
  metrics_.CountReceived(flight.way, BytesOf(message.reply));
  membership_->OnAnswered(message.shard);
  const int taken = ticket.TakeReply(message);
  if (flight.is_hedge && taken > 0) metrics_.CountHedgeWin();
  // Whoever was asked for the same rows need not answer any more.
  if (taken > 0) TakeBack(ticket, /*all=*/false);
}

void RemoteExperts::OnFailed(const Flight& flight, const absl::Status& status, absl::Time now) {
  LayerTicket& ticket = *flight.ticket;
  const ShardMessage& message = *flight.message;
  const ShardId shard = message.shard;
  ticket.Reopen(message);
  if (absl::IsCancelled(status)) {
    if (flight.outpaced) health_.RecordOutpaced(shard, now);
    return;
  }
  health_.RecordFailure(shard, status, now);
  ticket.last_error = status;
  if (!MayResend(status.code())) {
    if (ticket.failure.ok()) {
      ticket.failure = absl::InternalError(absl::StrCat("shard ", Value(shard), " refused rows of layer ",
                                                        Value(ticket.layer), ": ", status.ToString()));
    }
    return;
  }
  if (ticket.missing() > 0) {
    metrics_.CountResend(status.code());
    counts_.resent_pairs += message.call.pairs();
  }
  LayerTicket::Grudge& grudge = ticket.grudge(shard);
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      membership_->OnUnreachable(shard, status, now);
      health_.SetReachable(shard, false);
      return;
    case absl::StatusCode::kFailedPrecondition:
      membership_->OnStale(shard, now);
      return;
    case absl::StatusCode::kDeadlineExceeded:
      membership_->OnSuspect(shard, now);
      break;
    default:
      break;
  }
  ++grudge.strikes;
  grudge.pause_until = now + std::min(kPauseMin * (1 << std::min(grudge.strikes, 10)), kPauseMax);
  if (grudge.strikes < kStrikesToAskOthers || HasAlternative(ticket, message)) return;
  for (int other = 0; other < transport_.shards(); ++other) {
    if (ShardId{other} != shard) membership_->OnSuspect(ShardId{other}, now);
  }
  if (grudge.strikes < kStrikesToGiveUp) return;
  membership_->OnUseless(shard);
  membership_->LoadOrphans(now);
}

// Takes calls of the ticket back: all, or those that would bring nothing new.
void RemoteExperts::TakeBack(const LayerTicket& ticket, bool all) {
  for (Flight& flight : flights_) {
    if (flight.message == nullptr || flight.ticket != &ticket) continue;
    const auto& pairs = flight.message->pairs;
    const bool useless =
        std::all_of(pairs.begin(), pairs.end(), [&](const RoutedPair& pair) { return ticket.has_row(pair); });
    if (!all && !useless) continue;
    flight.outpaced = useless && !flight.is_hedge;
    transport_.Cancel(flight.message->call.call_id);
  }
}

void RemoteExperts::TakeBackFrom(ShardId shard) {
  for (const Flight& flight : flights_) {
    if (flight.message != nullptr && flight.message->shard == shard) transport_.Cancel(flight.message->call.call_id);
  }
}

absl::Duration RemoteExperts::WaitTime(const LayerTicket& ticket, absl::Time now) const {
  absl::Time wake = std::min({now + kIdleWait, ticket.deadline, membership_->due()});
  if (membership_->waiting()) wake = std::min(wake, now + kNewsPause);
  for (const Flight& flight : flights_) {
    if (flight.message != nullptr) wake = std::min({wake, flight.hedge_at, flight.suspect_at});
  }
  // Open pairs wait for a pause to end; there are few shards and it is rare, so that looking often is cheaper than
  // keeping the list.
  for (const auto& each : tickets_) {
    if (each->id != 0 && !each->open().empty()) wake = std::min(wake, now + kPauseMin);
  }
  return std::max(wake - now, absl::ZeroDuration());
}

absl::Status RemoteExperts::GiveUp(LayerTicket& ticket, absl::Time now) {
  // All rows are with shards that are within their time: it is the requests that had none left.
  if (ticket.deadline == step_deadline_ && ticket.open().empty() && ticket.last_error.ok()) {
    for (const Flight& flight : flights_) {
      if (flight.message != nullptr && flight.ticket == &ticket) membership_->OnSuspect(flight.message->shard, now);
    }
    return absl::DeadlineExceededError(
        absl::StrCat("the deadline came while layer ", Value(ticket.layer), " waited for its experts"));
  }
  const int32_t expert = ticket.open().empty() ? ticket.FirstMissing() : ticket.open().front().expert;
  const std::string last =
      ticket.last_error.ok() ? "" : absl::StrCat("; the last one said: ", ticket.last_error.ToString());
  absl::Status status = absl::UnavailableError(absl::StrCat("layer ", Value(ticket.layer), " expert ", expert,
                                                            ": no shard answered within the deadline", last));
  LogWarning(status.message());
  return status;
}

absl::Status RemoteExperts::Finish(ExpertTicket id, MatView out) {
  const auto found =
      std::find_if(tickets_.begin(), tickets_.end(), [&](const auto& each) { return each->id == id.id; });
  CONCLAVE_CHECK(id.id != 0 && found != tickets_.end()) << "ticket " << id.id << " is not in flight";
  LayerTicket& ticket = **found;
  absl::Time open_since = absl::InfiniteFuture();
  while (ticket.missing() > 0 && ticket.failure.ok()) {
    const absl::Time now = options_.clock->Now();
    Pump(now);
    open_since = ticket.open().empty() ? absl::InfiniteFuture() : std::min(open_since, now);
    if (now >= ticket.deadline) {
      ticket.failure = GiveUp(ticket, now);
    } else if (now >= open_since + kStalled && abandon_ != nullptr && abandon_()) {
      ticket.failure = absl::CancelledError("the step was abandoned while it waited for a shard");
    } else {
      transport_.Progress(WaitTime(ticket, now));
    }
  }
  TakeBack(ticket, /*all=*/true);
  // Every call has a deadline, so that this ends.
  while (ticket.in_flight > 0) transport_.Progress(kIdleWait);
  ticket.id = 0;
  RETURN_IF_ERROR(ticket.failure);
  const absl::Time begin = options_.clock->Now();
  ticket.CopyTo(out);
  metrics_.ObserveCombine(options_.clock->Now() - begin);
  return absl::OkStatus();
}

}  // namespace conclave
