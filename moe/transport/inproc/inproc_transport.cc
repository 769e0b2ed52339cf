#include "moe/transport/inproc/inproc_transport.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/transport/copy_rows.h"

namespace conclave {

// A call on its way, with copies of all that it points to.
struct InprocTransport::Job {
  ShardId shard{0};
  ExpertCall call;  // views into the members below
  std::vector<std::byte> rows, out;
  std::vector<uint32_t> row_offsets;
  std::vector<int32_t> experts;
  MatView out_view;
  absl::Status status;

  void Fill(ShardId to, const ExpertCall& from) {
    shard = to;
    call = from;
    const int64_t row_bytes = from.rows.cols * SizeOf(from.rows.dtype);
    rows.resize(from.rows.rows * row_bytes);
    call.rows.data = rows.data();
    call.rows.stride = from.rows.cols;
    CopyRows(from.rows,
             MatView{rows.data(), from.rows.dtype, Device::kCpu, from.rows.rows, from.rows.cols, from.rows.cols});
    row_offsets.assign(from.row_offsets.begin(), from.row_offsets.end());
    experts.assign(from.experts.begin(), from.experts.end());
    call.row_offsets = row_offsets;
    call.experts = experts;
    out.resize(from.pairs() * row_bytes);
    out_view = {out.data(), from.rows.dtype, Device::kCpu, from.pairs(), from.rows.cols, from.rows.cols};
  }
};

// One shard's thread and queue.
class InprocTransport::Worker {
 public:
  Worker(InprocTransport& transport, ExpertHandler* handler) : transport_(transport) {
    if (handler != nullptr) Start(handler);
  }
  ~Worker() { Stop(); }

  bool gone() const { return !thread_.joinable(); }

  void Start(ExpertHandler* handler) {
    stop_ = false;
    thread_ = std::thread([this, handler] { Work(*handler); });
  }

  // Drops what is queued and waits for what runs.
  void Stop() {
    if (gone()) return;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      queue_.clear();
    }
    queued_cv_.notify_one();
    thread_.join();
  }

  void Push(std::unique_ptr<Job> job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      queue_.push_back(std::move(job));
    }
    queued_cv_.notify_one();
  }

 private:
  void Work(ExpertHandler& handler) {
    while (true) {
      std::unique_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        queued_cv_.wait(lock, [&] { return stop_ || !queue_.empty(); });
        if (stop_) return;
        job = std::move(queue_.front());
        queue_.pop_front();
      }
      job->status = handler.Run(job->call, job->out_view);
      {
        std::lock_guard<std::mutex> lock(transport_.mutex_);
        transport_.finished_.push_back(std::move(job));
      }
      transport_.finished_cv_.notify_one();
    }
  }

  InprocTransport& transport_;
  std::mutex mutex_;
  std::condition_variable queued_cv_;
  bool stop_ = false;                       // guarded by mutex_
  std::deque<std::unique_ptr<Job>> queue_;  // guarded by mutex_
  std::thread thread_;
};

InprocTransport::InprocTransport(std::vector<ExpertHandler*> shards, Clock* clock) : clock_(clock) {
  workers_.reserve(shards.size());
  for (ExpertHandler* handler : shards) workers_.push_back(std::make_unique<Worker>(*this, handler));
}

InprocTransport::~InprocTransport() = default;

std::unique_ptr<InprocTransport::Job> InprocTransport::TakeJob() {
  if (free_.empty()) return std::make_unique<Job>();
  std::unique_ptr<Job> job = std::move(free_.back());
  free_.pop_back();
  return job;
}

void InprocTransport::Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) {
  if (!table_.Add(shard, shards(), call, out, std::move(done))) return;
  Worker& worker = *workers_[Value(shard)];
  if (worker.gone()) {
    table_.End(call.call_id, absl::UnavailableError(absl::StrCat("shard ", Value(shard), " is gone")));
    return;
  }
  std::unique_ptr<Job> job = TakeJob();
  job->Fill(shard, call);
  worker.Push(std::move(job));
}

void InprocTransport::Cancel(uint64_t call_id) { table_.End(call_id, absl::CancelledError("the caller took it back")); }

void InprocTransport::Deliver(Job& job) {
  const CallTable::Pending* pending = table_.Find(job.call.call_id);
  if (pending == nullptr) return;  // too late
  if (job.status.ok()) CopyRows(job.out_view, pending->out);
  table_.End(job.call.call_id, std::move(job.status));
}

void InprocTransport::CollectFinished() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    arrived_.swap(finished_);
  }
  for (std::unique_ptr<Job>& job : arrived_) {
    Deliver(*job);
    free_.push_back(std::move(job));
  }
  arrived_.clear();
}

int InprocTransport::Progress(absl::Duration wait) {
  const auto until = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(std::min(wait, absl::Hours(1)));
  while (true) {
    CollectFinished();
    const absl::Time now = clock_->Now();
    table_.EndExpired(now);
    if (const int ran = table_.RunDone(); ran > 0) return ran;
    const auto real_now = std::chrono::steady_clock::now();
    if (real_now >= until) return 0;
    auto wake = until;
    if (const absl::Duration left = table_.EarliestDeadline() - now; left < absl::Hours(1)) {
      wake = std::min(
          wake, real_now + std::chrono::ceil<std::chrono::steady_clock::duration>(absl::ToChronoNanoseconds(left)));
    }
    std::unique_lock<std::mutex> lock(mutex_);
    finished_cv_.wait_until(lock, wake, [&] { return !finished_.empty(); });
  }
}

void InprocTransport::Disconnect(ShardId shard) {
  CONCLAVE_CHECK(Value(shard) >= 0 && Value(shard) < shards()) << Value(shard);
  workers_[Value(shard)]->Stop();
  CollectFinished();  // what it had finished before it went still counts
  table_.EndShard(shard, absl::UnavailableError(absl::StrCat("shard ", Value(shard), " is gone")));
}

void InprocTransport::Connect(ShardId shard, ExpertHandler* handler) {
  Disconnect(shard);
  CONCLAVE_CHECK(handler != nullptr);
  workers_[Value(shard)]->Start(handler);
}

}  // namespace conclave
