#include "cli/bench/load_runner.h"

#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <set>
#include <utility>

namespace conclave {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kProgressInterval{500};

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

class Runner {
 public:
  Runner(asio::io_context& context, LoadClient& client, Workload& workload, const LoadPlan& plan,
         std::function<void(const LoadProgress&)> progress)
      : context_(context),
        client_(client),
        workload_(workload),
        plan_(plan),
        progress_(std::move(progress)),
        arrival_timer_(context),
        end_timer_(context),
        progress_timer_(context),
        signals_(context, SIGINT) {}

  LoadResult Run() {
    const double cpu_before = CpuSeconds();
    start_ = steady_clock::now();
    // In a closed loop each place sends one request after the other.
    free_since_.assign(static_cast<size_t>(plan_.open_loop ? 0 : plan_.concurrency), start_);
    signals_.async_wait([this](const error_code& error, int) {
      if (!error) Interrupt();
    });
    // An open loop ends by its arrivals: what came before the end and found no place is still to be sent, late as it
    // is.
    if (!plan_.open_loop && plan_.duration < absl::InfiniteDuration()) {
      end_timer_.expires_at(start_ + absl::ToChronoNanoseconds(plan_.duration));
      end_timer_.async_wait([this](const error_code& error) {
        if (!error) StopSending();
      });
    }
    if (progress_) ShowProgress();
    work_.emplace(asio::make_work_guard(context_));
    next_ = workload_.Next();
    Pump();
    context_.restart();
    context_.run();
    result_.elapsed = absl::FromChrono(end_ - start_);
    result_.cpu_seconds = CpuSeconds() - cpu_before;
    return std::move(result_);
  }

 private:
  // Sends whatever may be sent now.
  void Pump() {
    while (next_.has_value() && running_ < plan_.concurrency) {
      if (plan_.open_loop) {
        const Instant intended = start_ + absl::ToChronoNanoseconds(next_->arrival);
        if (next_->arrival >= plan_.duration) return StopSending();
        if (intended > steady_clock::now()) return WaitUntil(intended);
        Send(intended);
      } else {
        if (free_since_.empty()) return;
        const Instant intended = free_since_.front();
        free_since_.pop_front();
        Send(intended);
      }
    }
    EndIfIdle();
  }

  void WaitUntil(Instant when) {
    arrival_timer_.expires_at(when);
    arrival_timer_.async_wait([this](const error_code& error) {
      if (!error) Pump();
    });
  }

  void Send(Instant intended) {
    const WorkItem item = *std::exchange(next_, std::nullopt);
    RequestRecord* record = &result_.records.emplace_back();
    record->intended = intended;
    ++running_;
    client_.Start(item, record, [this, record] { asio::post(context_, [this, record] { Ended(record); }); });
    // Made while nobody waits for it: a prompt of many tokens takes its time.
    next_ = workload_.Next();
  }

  void Ended(RequestRecord* record) {
    --running_;
    end_ = std::max(end_, record->end);
    state_.output_tokens += record->output_tokens;
    if (result_.interrupted && record->outcome == Outcome::kError) record->outcome = Outcome::kAbandoned;
    if (record->outcome == Outcome::kAnswered) ++state_.answered;
    if (record->outcome == Outcome::kRefused) ++state_.refused;
    if (record->outcome == Outcome::kError) ++state_.errors;
    if (!plan_.open_loop) FreePlace(*record);
    Pump();
  }

  void FreePlace(const RequestRecord& record) {
    if (record.outcome != Outcome::kRefused || !plan_.obey_retry_after || !record.retry_after.has_value()) {
      free_since_.push_back(record.end);
      return;
    }
    const auto timer = std::make_shared<asio::steady_timer>(context_);
    timer->expires_at(record.end + absl::ToChronoNanoseconds(*record.retry_after));
    timer->async_wait([this, timer](const error_code&) {
      waiting_.erase(timer);
      if (ended_) return;
      free_since_.push_back(timer->expiry());
      Pump();
    });
    waiting_.insert(timer);
  }

  void StopSending() {
    next_.reset();
    arrival_timer_.cancel();
    EndIfIdle();
  }

  void Interrupt() {
    result_.interrupted = true;
    StopSending();
    client_.CancelAll();
  }

  void EndIfIdle() {
    if (running_ > 0 || next_.has_value() || ended_) return;
    ended_ = true;
    arrival_timer_.cancel();
    end_timer_.cancel();
    progress_timer_.cancel();
    signals_.cancel();
    for (const auto& timer : waiting_) timer->cancel();
    work_.reset();
  }

  void ShowProgress() {
    state_.elapsed = absl::FromChrono(steady_clock::now() - start_);
    state_.running = running_;
    progress_(state_);
    progress_timer_.expires_after(kProgressInterval);
    progress_timer_.async_wait([this](const error_code& error) {
      if (!error && !ended_) ShowProgress();
    });
  }

  asio::io_context& context_;
  LoadClient& client_;
  Workload& workload_;
  const LoadPlan plan_;
  const std::function<void(const LoadProgress&)> progress_;
  asio::steady_timer arrival_timer_, end_timer_, progress_timer_;
  asio::signal_set signals_;
  std::set<std::shared_ptr<asio::steady_timer>> waiting_;  // places that were told to wait
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work_;
  Instant start_, end_;
  std::optional<WorkItem> next_;
  std::deque<Instant> free_since_;  // of a closed loop: places without a request
  int running_ = 0;
  bool ended_ = false;
  LoadProgress state_;
  LoadResult result_;
};

}  // namespace

LoadResult RunLoad(asio::io_context& context, LoadClient& client, Workload& workload, const LoadPlan& plan,
                   std::function<void(const LoadProgress&)> progress) {
  return Runner(context, client, workload, plan, std::move(progress)).Run();
}

}  // namespace conclave
