// What the tests of the router pool share: fake services that decode a known sequence, and a pool over them.
#ifndef CONCLAVE_GATEWAY_ROUTERS_ROUTER_POOL_FIXTURE_FOR_TEST_H_
#define CONCLAVE_GATEWAY_ROUTERS_ROUTER_POOL_FIXTURE_FOR_TEST_H_

#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gateway/fake_router_for_test.h"
#include "gateway/routers/router_pool.h"
#include "gtest/gtest.h"

namespace conclave {

inline constexpr int kTokens = 12;

// Takes a stream down.
class Recorder final : public DecodeListener {
 public:
  void OnResponse(const v1::DecodeResponse& response) override {
    absl::MutexLock lock(&mutex_);
    ids_.insert(ids_.end(), response.ids().begin(), response.ids().end());
    finish_ += response.finish_reason();
  }
  void OnEnd(const absl::Status& status) override {
    end = status;
    ended.Notify();
  }
  std::vector<int32_t> ids() {
    absl::MutexLock lock(&mutex_);
    return ids_;
  }
  std::string finish() {
    absl::MutexLock lock(&mutex_);
    return finish_;
  }
  bool Ends() { return ended.WaitForNotificationWithTimeout(absl::Seconds(30)); }
  bool Gets(size_t tokens) {
    for (int i = 0; i < 3000 && ids().size() < tokens; ++i) absl::SleepFor(absl::Milliseconds(10));
    return ids().size() >= tokens;
  }

  absl::Status end;
  absl::Notification ended;

 private:
  absl::Mutex mutex_;
  std::vector<int32_t> ids_ ABSL_GUARDED_BY(mutex_);
  std::string finish_ ABSL_GUARDED_BY(mutex_);
};

// What an undisturbed sequence gives: token i is 100 + i.
inline std::vector<int32_t> Whole() {
  std::vector<int32_t> ids(kTokens);
  std::iota(ids.begin(), ids.end(), 100);
  return ids;
}

// Decodes from where the request says; stays at token `until` for as long as the call does.
inline FakeRouter::Script Decoding(int until = kTokens) {
  return [until](grpc::ServerContext* context, const v1::DecodeRequest& request, DecodeWriter* writer) {
    for (int i = request.generated_ids_size(); i < kTokens; ++i) {
      while (i == until && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
      if (context->IsCancelled()) return grpc::Status::CANCELLED;
      writer->Write(Ids({100 + i}, i + 1 == kTokens ? "length" : ""));
    }
    return grpc::Status::OK;
  };
}

// Ends every sequence at once with this status.
inline FakeRouter::Script Refusing(grpc::StatusCode code, const std::string& message) {
  return [=](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter*) { return grpc::Status(code, message); };
}

// A pool over fake services.
class RouterPoolTest : public ::testing::Test {
 protected:
  void Start(int count) {
    for (int i = 0; i < count; ++i) {
      routers_.push_back(std::make_unique<FakeRouter>());
      routers_.back()->Answer(Decoding());
      options_.addresses.push_back(routers_.back()->address);
    }
    options_.poll_interval = absl::Milliseconds(20);
    Open();
  }
  void Open() {
    pool_ = RouterPool::Create(options_, *metrics_);
    ASSERT_TRUE(pool_->WaitUntilServing(absl::Now() + absl::Seconds(10)).ok());
    for (const std::string& address : options_.addresses) ASSERT_TRUE(Says("router_up", address, 1));
  }
  bool Says(const std::string& gauge, const std::string& address, int value) {
    const std::string line = absl::StrCat("conclave_gateway_", gauge, "{router=\"", address, "\"} ", value, "\n");
    for (int i = 0; i < 1000; ++i, absl::SleepFor(absl::Milliseconds(10))) {
      if (absl::StrContains(metrics_->Text(), line)) return true;
    }
    return false;
  }
  bool Counted(const std::string& line) { return absl::StrContains(metrics_->Text(), absl::StrCat("\n", line, "\n")); }

  static v1::DecodeRequest Request(int first_id = 0) {
    v1::DecodeRequest request;
    request.set_request_id("r");
    for (int i = 0; i < 70; ++i) request.add_prompt_ids(first_id + i);
    return request;
  }
  std::shared_ptr<DecodeCall> Decode(const std::shared_ptr<Recorder>& recorder,
                                     const v1::DecodeRequest& request = Request()) {
    return pool_->Decode(pool_->Place(request), request, absl::InfiniteFuture(), {}, recorder);
  }
  // Where the test's request goes first, and the other one of two.
  int First() { return pool_->Place(Request()); }

  std::vector<std::unique_ptr<FakeRouter>> routers_;
  std::unique_ptr<Metrics> metrics_ = Metrics::Create();
  RouterPoolOptions options_;
  std::unique_ptr<RouterPool> pool_;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_ROUTERS_ROUTER_POOL_FIXTURE_FOR_TEST_H_
