// The engine's thread: Next → Forward → Sample → Commit → stream. What other threads want comes through EngineInbox.
#include <algorithm>
#include <new>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"
#include "moe/grammar/token_grammar.h"
#include "moe/model/kv_storage.h"
#include "moe/tensor/buffer.h"
#include "router_service/engine_inbox.h"
#include "router_service/engine_internal.h"
#include "router_service/engine_metrics.h"
#include "router_service/live_sequence.h"
#include "router_service/prefill_pacer.h"
#include "router_service/sampler.h"
#include "router_service/scheduler.h"
#include "router_service/step_routing.h"

namespace conclave {
namespace {

// How often an engine without sequences lets its experts see to their connections: what peers tell each other while
// nobody asks anything would fill UCX's shared memory in some seconds.
constexpr absl::Duration kIdlePause = absl::Milliseconds(100);

// The logits of one slice of a batch, from row first_row of the step's on.
struct HostRows {
  size_t slice = 0;
  int first_row = 0;
  LiveSequence* sequence = nullptr;
};

struct PendingEvent {
  TokenEvent event;
  LiveSequence* sequence = nullptr;
  std::unique_ptr<LiveSequence> ended;  // keeps an ended sequence until its callback has run
};

SchedulerOptions SchedulerLimits(const ModelSpec& spec, const EnginePlan& plan, const EngineOptions& options) {
  SchedulerOptions limits;
  limits.batch_tokens_max = options.batch_tokens_max;
  limits.prefill_chunk_tokens_max = options.prefill_chunk_tokens_max;
  limits.logit_rows_max = plan.logit_rows_max;
  limits.sequences_running_max = options.sequences_running_max;
  limits.sequences_queued_max = options.sequences_queued_max;
  limits.context_max = plan.context_max;
  limits.kv_blocks = plan.kv_blocks;
  limits.kv_block_tokens = plan.kv_block_tokens;
  limits.prefix_cache = options.prefix_cache;
  return limits;
}

class EngineLoop final : public Engine {
 public:
  EngineLoop(std::unique_ptr<Transformer> transformer, std::unique_ptr<KvStorage> kv, const ModelSpec& spec,
             ThreadPool& threads, ExpertPool& experts, const EnginePlan& plan, const EngineOptions& options,
             Clock* clock)
      : spec_(spec),
        threads_(threads),
        context_max_(plan.context_max),
        transformer_(std::move(transformer)),
        experts_(experts),
        clock_(clock),
        scheduler_(SchedulerLimits(spec, plan, options)),
        kv_(std::move(kv)),
        own_logits_(DType::kF32, transformer_->host_logits().rows > 0 ? 0 : plan.logit_rows_max, spec.vocab),
        logits_(own_logits_.view().rows > 0 ? own_logits_.view() : transformer_->host_logits()),
        routing_(spec),
        pacer_(options.prefill_stretch_max, options.batch_tokens_max),
        metrics_(options.metrics),
        inbox_(scheduler_.live_max()) {
    for (int i = 0; i < threads.threads(); ++i) samplers_.emplace_back(spec.vocab);
    if (options.vocabulary != nullptr) {
      CONCLAVE_CHECK(options.vocabulary->vocab() == spec.vocab) << options.vocabulary->vocab();
      grammars_.emplace(options.vocabulary);
    }
    inbox_.BeginDelivery(Stats(), {});
    inbox_.EndDelivery();
    experts_.AskWhileStalled([this] { return Abandon(); });
    thread_ = std::thread([this] { Run(); });
  }

  ~EngineLoop() override {
    inbox_.Stop();
    thread_.join();
    experts_.AskWhileStalled(nullptr);
  }

  absl::StatusOr<SequenceId> Submit(EngineRequest request, TokenCallback on_event) override;
  void Cancel(SequenceId sequence) override { inbox_.Cancel(sequence); }
  absl::Status Drain(absl::Time deadline) override { return inbox_.Drain(deadline); }
  EngineStats stats() const override { return inbox_.stats(); }
  std::vector<std::vector<uint64_t>> ExpertTokens() const override { return routing_.totals(); }

 private:
  void Run();
  void Accept(InboxItem& item);
  void Expire();
  void Step();
  absl::Time Patience(const Batch& batch);
  bool Abandon();
  absl::Status Forward(const Batch& batch);
  static void AskToBeTold(const BatchSlice& slice, LiveSequence& sequence, SequenceSlice& rows, int64_t& changes_left);
  void TakeLogits(const Batch& batch);
  void TakeHostRows(const Batch& batch);
  absl::Status TakeTold(const BatchSlice& slice, int64_t first_row, int32_t& sampled);
  absl::Status TakeRows(const BatchSlice& slice, LiveSequence& sequence, ConstMatView rows, Sampler& sampler,
                        int32_t& sampled) const;
  void Fail(SequenceId sequence, const absl::Status& status);
  void Emit(SequenceId sequence, int32_t token, FinishReason finish, const absl::Status& status);
  void Deliver();
  EngineStats Stats() const;

  const ModelSpec spec_;
  ThreadPool& threads_;
  const int context_max_;
  std::unique_ptr<Transformer> transformer_;
  ExpertPool& experts_;
  Clock* const clock_;
  Scheduler scheduler_;
  std::unique_ptr<KvStorage> kv_;
  MatBuffer own_logits_;  // where the transformer has none
  const MatView logits_;  // [logit_rows_max, vocab] F32
  std::vector<Sampler> samplers_;  // one for each thread
  std::optional<GrammarPool> grammars_;  // nothing: they are refused
  StepRouting routing_;
  PrefillPacer pacer_;
  EngineMetrics metrics_;
  absl::flat_hash_map<SequenceId, std::unique_ptr<LiveSequence>> sequences_;  // those that the scheduler has
  std::vector<InboxItem> taken_;
  std::vector<SequenceSlice> slices_;
  std::vector<RoutedRows> routed_rows_;
  std::vector<int32_t> sampled_;      // [slices]
  std::vector<absl::Status> taken_status_;  // [slices]: of their logits
  std::vector<HostRows> host_rows_;   // of the step, those that the host samples from
  std::vector<PendingEvent> events_;  // at most one of each sequence
  std::vector<SequenceId> ended_;
  bool abandoned_ = false;                           // the step at hand
  absl::Time first_tried_ = absl::InfiniteFuture();  // the first of the steps that were abandoned before it
  EngineInbox inbox_;
  std::thread thread_;
};

absl::StatusOr<SequenceId> EngineLoop::Submit(EngineRequest request, TokenCallback on_event) {
  RETURN_IF_ERROR(ValidateRequest(request, spec_, context_max_));
  ASSIGN_OR_RETURN(auto matcher, MatcherOf(request, grammars_.has_value() ? &*grammars_ : nullptr));
  return inbox_.Submit(std::make_unique<LiveSequence>(std::move(request), spec_, std::move(matcher), clock_->Now(),
                                                      std::move(on_event)));
}

void EngineLoop::Run() {
  bool go_on = true;
  while (go_on) {
    const bool idle = sequences_.empty();
    go_on = inbox_.Take(idle ? kIdlePause : absl::ZeroDuration(), taken_);
    if (idle && go_on && taken_.empty()) {
      experts_.Idle();
      continue;
    }
    for (InboxItem& item : taken_) Accept(item);
    taken_.clear();
    Expire();
    if (!events_.empty()) Deliver();
    if (!go_on) break;
    Step();
    Deliver();
  }
  std::vector<SequenceId> left;
  for (const auto& [id, sequence] : sequences_) left.push_back(id);
  for (SequenceId id : left) Fail(id, absl::CancelledError("the engine stopped"));
  Deliver();
}

void EngineLoop::Accept(InboxItem& item) {
  if (item.submission == nullptr) {
    if (sequences_.contains(item.sequence)) Fail(item.sequence, absl::CancelledError("the request was cancelled"));
    return;
  }
  ScheduledRequest scheduled = item.submission->TakeScheduled();
  sequences_.emplace(item.sequence, std::move(item.submission));
  if (const absl::Status status = scheduler_.Add(std::move(scheduled)); !status.ok()) Fail(item.sequence, status);
}

void EngineLoop::Expire() {
  for (SequenceId sequence : scheduler_.Expire(clock_->Now())) {
    Fail(sequence, absl::DeadlineExceededError("the request's deadline passed before its answer was complete"));
  }
}

void EngineLoop::Step() {
  const absl::Time begin = clock_->Now();
  const Batch& batch = scheduler_.Next(pacer_.Rows(scheduler_.decoding()));
  for (const Admission& admission : batch.admissions) {
    LiveSequence& sequence = *sequences_.at(admission.sequence);
    metrics_.Admitted(admission, begin - sequence.arrival());
    sequence.Admitted(begin, admission.cached_tokens);
  }
  if (batch.slices.empty()) {
    first_tried_ = absl::InfiniteFuture();
    return;
  }
  const absl::Status status = Forward(batch);
  if (std::exchange(abandoned_, false)) {
    // The scheduler gives the rows out again, of those that are left.
    first_tried_ = std::min(first_tried_, begin);
    return;
  }
  first_tried_ = absl::InfiniteFuture();
  if (!status.ok()) {
    for (const BatchSlice& slice : batch.slices) Fail(slice.sequence, status);
    return;
  }
  TakeLogits(batch);
  for (const ScheduledToken& token : scheduler_.Commit(batch, sampled_)) {
    Emit(token.sequence, token.token, token.finish, absl::OkStatus());
  }
  const absl::Duration took = clock_->Now() - begin;
  pacer_.Observe(batch.decode_rows, batch.rows - batch.decode_rows, took);
  metrics_.StepDone(batch, routing_.in_two_parts(), took, scheduler_.preemptions());
}

// Experts are waited for as long as anybody in the batch would still hear of it: until the latest deadline, less the
// time that the refusal needs to get there.
absl::Time EngineLoop::Patience(const Batch& batch) {
  absl::Time latest = absl::InfinitePast();
  for (const BatchSlice& slice : batch.slices) latest = std::max(latest, sequences_.at(slice.sequence)->deadline());
  const absl::Duration left = latest - clock_->Now();
  return latest - std::clamp(left / 10, absl::Milliseconds(20), absl::Milliseconds(500));
}

// Asked while no shard can compute a step's rows: whoever has gone by now need not wait for one that can.
bool EngineLoop::Abandon() {
  const absl::Time now = clock_->Now();
  abandoned_ = inbox_.HasCancellation() || std::any_of(sequences_.begin(), sequences_.end(), [now](const auto& entry) {
                 return entry.second->deadline() <= now;
               });
  return abandoned_;
}

absl::Status EngineLoop::Forward(const Batch& batch) {
  slices_.clear();
  routed_rows_.clear();
  int64_t changes_left = kDrawChangesMax;  // rows beyond are sampled on the host
  for (const BatchSlice& slice : batch.slices) {
    LiveSequence& sequence = *sequences_.at(slice.sequence);
    SequenceSlice& rows = slices_.emplace_back();
    rows = {slice.token_ids, slice.first_position, slice.blocks, slice.logit_rows};
    if (slice.logit_rows > 0 && !sequence.needs_logits()) AskToBeTold(slice, sequence, rows, changes_left);
    routed_rows_.push_back({slice.first_position, static_cast<int32_t>(slice.token_ids.size()), slice.prompt_rows,
                            sequence.expert_use(), sequence.observer(),
                            slice.samples ? sequence.token_experts() : nullptr, sequence.booked_until()});
  }
  routing_.BeginStep(routed_rows_);
  experts_.SetDeadline(Patience(batch), first_tried_);
  return transformer_->Forward(slices_, *kv_, experts_, logits_.Rows(0, batch.logit_rows), &routing_);
}

// Of every row of `rows` that has logits, unless its draw cannot be made elsewhere.
void EngineLoop::AskToBeTold(const BatchSlice& slice, LiveSequence& sequence, SequenceSlice& rows,
                             int64_t& changes_left) {
  if (slice.samples) {
    const std::optional<TokenDraw> draw = sequence.Draw(slice.end());
    const int64_t changes = static_cast<int64_t>(sequence.changes().size());
    if (!draw.has_value() || changes > changes_left) return;
    rows.draw = draw;
    rows.changes = sequence.changes();
    changes_left -= changes;
  }
  rows.given = slice.tokens.subspan(slice.end() - slice.logit_rows + 1, slice.logit_rows - (slice.samples ? 1 : 0));
  rows.given_top_logprobs = sequence.known_top_logprobs();
}

// Hands the step's logits out: to observers, log probabilities and hashes, and to the sampler. Rows that the device did
// not tell of are shared among the threads; a result depends on its own sequence alone.
void EngineLoop::TakeLogits(const Batch& batch) {
  const size_t count = batch.slices.size();
  sampled_.assign(count, -1);
  taken_status_.assign(count, absl::OkStatus());
  host_rows_.clear();
  const absl::Span<const int32_t> drawn = transformer_->drawn_ids();
  int row = 0;
  for (size_t i = 0; i < count; ++i) {
    const BatchSlice& slice = batch.slices[i];
    const int first_row = row;
    row += slice.logit_rows;
    taken_status_[i] = transformer_->SliceStatus(i);
    if (!taken_status_[i].ok() || slice.logit_rows == 0) continue;
    if (slices_[i].is_told() && !drawn.empty()) {
      taken_status_[i] = TakeTold(slice, first_row, sampled_[i]);
    } else {
      host_rows_.push_back({i, first_row, sequences_.at(slice.sequence).get()});
    }
  }
  TakeHostRows(batch);
  for (size_t i = 0; i < count; ++i) {
    if (absl::IsInternal(taken_status_[i])) metrics_.NotFinite();  // a hidden state, or the logits
    if (!taken_status_[i].ok()) Fail(batch.slices[i].sequence, taken_status_[i]);
  }
}

void EngineLoop::TakeHostRows(const Batch& batch) {
  const auto take = [&](const HostRows& rows, Sampler& sampler) {
    const BatchSlice& slice = batch.slices[rows.slice];
    taken_status_[rows.slice] = TakeRows(slice, *rows.sequence, logits_.Rows(rows.first_row, slice.logit_rows), sampler,
                                         sampled_[rows.slice]);
  };
  // Observers are called on this thread.
  const auto shared_end = std::partition(host_rows_.begin(), host_rows_.end(), [](const HostRows& rows) {
    return rows.sequence->observer() == nullptr;
  });
  const int64_t shared = shared_end - host_rows_.begin();
  const int64_t each = (shared + threads_.threads() - 1) / threads_.threads();
  const auto take_some = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) take(host_rows_[i], samplers_[begin / each]);
  };
  if (shared > 0) threads_.ParallelFor(shared, each, take_some);
  for (auto rows = shared_end; rows != host_rows_.end(); ++rows) take(*rows, samplers_[0]);
}

// first_row: of the step's logits.
absl::Status EngineLoop::TakeTold(const BatchSlice& slice, int64_t first_row, int32_t& sampled) {
  LiveSequence& sequence = *sequences_.at(slice.sequence);
  const int32_t first = slice.end() - slice.logit_rows;
  for (int32_t position = first; position < slice.end(); ++position) {
    const int64_t row = first_row + position - first;
    const int32_t id = transformer_->drawn_ids()[row];
    if (id < 0) {
      return absl::InternalError(absl::StrCat("a logit at position ", position + 1,
                                              " is not a finite number; the model's weights or a kernel are damaged"));
    }
    if (position + 1 < static_cast<int32_t>(slice.tokens.size())) {
      sequence.TakeKnown(transformer_->drawn_logprobs(row), position, id);
    } else {
      sequence.TakeDrawn(id, transformer_->drawn_logprobs(row));
      sampled = id;
    }
  }
  return absl::OkStatus();
}

// rows: [slice.logit_rows, vocab], of the last rows of the slice.
absl::Status EngineLoop::TakeRows(const BatchSlice& slice, LiveSequence& sequence, ConstMatView rows, Sampler& sampler,
                                  int32_t& sampled) const {
  const int32_t first = slice.end() - slice.logit_rows;
  const int32_t prompt_end = slice.first_position + slice.prompt_rows;
  // Replayed rows were shown before, and their logits are not asked for again.
  if (sequence.observer() != nullptr && first < prompt_end) {
    sequence.observer()->OnPromptLogits(first, rows.Rows(0, prompt_end - first));
  }
  for (int32_t position = first; position < slice.end(); ++position) {
    const absl::Span<const float> logits(rows.Row<float>(position - first), spec_.vocab);
    if (position + 1 < static_cast<int32_t>(slice.tokens.size())) {
      RETURN_IF_ERROR(sequence.TakeKnown(logits, position, slice.tokens[position + 1]));
    } else {
      ASSIGN_OR_RETURN(sampled, sequence.Sample(sampler, logits, position + 1));
    }
  }
  return absl::OkStatus();
}

// Ends a sequence, whether the scheduler still has it or not.
void EngineLoop::Fail(SequenceId sequence, const absl::Status& status) {
  scheduler_.Cancel(sequence);
  Emit(sequence, -1, FinishReason::kNone, status);
}

// Notes an event for Deliver; a sequence that it ends is forgotten here.
void EngineLoop::Emit(SequenceId id, int32_t token, FinishReason finish, const absl::Status& status) {
  const auto entry = sequences_.find(id);
  CONCLAVE_CHECK(entry != sequences_.end()) << "sequence " << Value(id) << " does not live";
  LiveSequence& sequence = *entry->second;
  PendingEvent& pending = events_.emplace_back();
  pending.sequence = &sequence;
  pending.event.sequence = id;
  pending.event.token = token;
  pending.event.finish = finish;
  pending.event.status = status;
  if (token >= 0 && !sequence.has_answered()) metrics_.FirstToken(clock_->Now() - sequence.admission());
  sequence.Report(pending.event);
  if (pending.event.ended()) {
    pending.ended = std::move(entry->second);
    sequences_.erase(entry);
  }
}

void EngineLoop::Deliver() {
  ended_.clear();
  for (const PendingEvent& pending : events_) {
    if (pending.ended != nullptr) ended_.push_back(pending.event.sequence);
  }
  inbox_.BeginDelivery(Stats(), ended_);
  for (const PendingEvent& pending : events_) pending.sequence->on_event()(pending.event);
  events_.clear();
  inbox_.EndDelivery();
}

EngineStats EngineLoop::Stats() const {
  const KvBlockPool& blocks = scheduler_.blocks();
  EngineStats stats;
  stats.queued = scheduler_.waiting();
  stats.running = scheduler_.running();
  stats.queued_max = scheduler_.live_max() - scheduler_.running_max();
  stats.running_max = scheduler_.running_max();
  stats.kv_blocks_used = blocks.total() - blocks.free();
  stats.kv_blocks_cached = blocks.cached();
  stats.kv_blocks_total = blocks.total();
  stats.preemptions = scheduler_.preemptions();
  stats.experts_last_step = routing_.experts_read();
  return stats;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> CreateWithTransformer(std::unique_ptr<Transformer> transformer,
                                                              const ModelSpec& spec, DType cache_dtype,
                                                              ThreadPool& threads, ExpertPool& experts,
                                                              const EngineOptions& options, Clock* clock) {
  ASSIGN_OR_RETURN(const EnginePlan plan, PlanEngine(spec, cache_dtype, options));
  try {
    ASSIGN_OR_RETURN(auto kv, transformer->NewCache(spec, cache_dtype, plan.kv_blocks, plan.kv_block_tokens));
    return std::unique_ptr<Engine>(std::make_unique<EngineLoop>(std::move(transformer), std::move(kv), spec, threads,
                                                                experts, plan, options, clock));
  } catch (const std::bad_alloc&) {
    const int64_t bytes = plan.kv_blocks * KvBlockBytes(spec, cache_dtype, plan.kv_block_tokens);
    return absl::ResourceExhaustedError(absl::StrCat("no memory for a KV cache of ", bytes, " bytes: lower kv_bytes"));
  }
}

}  // namespace conclave
