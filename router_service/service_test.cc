#include "router_service/service.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "conclave/v1/control.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/metrics/metrics.h"
#include "router_service/engine.h"
#include "router_service/finish_reason.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// An engine whose events the test makes; events of a sequence come from the test's thread, as if it were the engine's.
class FakeEngine final : public Engine {
 public:
  absl::StatusOr<SequenceId> Submit(EngineRequest request, TokenCallback on_event) override {
    absl::MutexLock lock(&mutex_);
    if (!refusal.ok()) return refusal;
    const SequenceId id{++last_};
    requests_[last_] = std::move(request);
    callbacks_[last_] = std::move(on_event);
    return id;
  }
  void Cancel(SequenceId sequence) override {
    absl::MutexLock lock(&mutex_);
    cancelled_.push_back(Value(sequence));
  }
  absl::Status Drain(absl::Time) override { return absl::OkStatus(); }
  EngineStats stats() const override {
    return {.queued = 3,
            .running = 2,
            .queued_max = 30,
            .running_max = 20,
            .kv_blocks_used = 10,
            .kv_blocks_cached = 4,
            .kv_blocks_total = 40};
  }
  std::vector<std::vector<uint64_t>> ExpertTokens() const override { return {{}, {7, 0, uint64_t{1} << 40}}; }

  // Waits for sequence `id` and returns what was submitted.
  EngineRequest WaitForRequest(uint64_t id) {
    const auto there = [this, id]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return requests_.contains(id); };
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&there));
    return requests_[id];
  }
  void WaitForCancel(uint64_t id) {
    const auto there = [this, id]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return std::find(cancelled_.begin(), cancelled_.end(), id) != cancelled_.end();
    };
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&there));
  }
  void Send(uint64_t id, TokenEvent event) {
    TokenCallback callback;
    {
      absl::MutexLock lock(&mutex_);
      callback = callbacks_[id];
      if (event.ended()) callbacks_.erase(id);
    }
    event.sequence = SequenceId{id};
    callback(event);
  }
  static TokenEvent Token(int32_t token, FinishReason finish = FinishReason::kNone) {
    TokenEvent event;
    event.token = token;
    event.finish = finish;
    return event;
  }
  static TokenEvent Failure(absl::Status status) {
    TokenEvent event;
    event.status = std::move(status);
    return event;
  }

  absl::Status refusal;

 private:
  absl::Mutex mutex_;
  uint64_t last_ = 0;
  std::map<uint64_t, EngineRequest> requests_;
  std::map<uint64_t, TokenCallback> callbacks_;
  std::vector<uint64_t> cancelled_;
};

class RouterServiceTest : public ::testing::Test {
 protected:
  RouterServiceTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_->service());
    server_ = builder.BuildAndStart();
    stub_ = v1::RouterService::NewStub(
        grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
  }
  ~RouterServiceTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  void Serve() {
    service_->SetEngine(&engine_, {"demo", "fingerprint", "profile", "deepseek_v3", 96, 61}, [] {
      ExpertMapView map;
      map.placement_epoch = 4;
      map.shards.push_back(
          {"127.0.0.1:5", false, {"expert-0", {{LayerId{1}, {ExpertId{0}, ExpertId{2}}}}}, 99, true});
      return map;
    });
  }

  static v1::DecodeRequest Request() {
    v1::DecodeRequest request;
    request.set_request_id("r1");
    for (const int id : {5, 6, 7}) request.add_prompt_ids(id);
    request.mutable_sampling()->set_seed(11);
    request.mutable_sampling()->set_temperature(0.5f);
    request.mutable_sampling()->set_top_p(0.9f);
    request.mutable_sampling()->set_top_k(40);
    request.set_max_tokens(12);
    return request;
  }

  grpc::Status DecodeOnce(const v1::DecodeRequest& request) {
    grpc::ClientContext context;
    auto stream = stub_->Decode(&context, request);
    v1::DecodeResponse response;
    while (stream->Read(&response)) {
    }
    return stream->Finish();
  }

  // The value in the metrics' text behind `name`.
  std::string MetricsWith(const std::string& name) const {
    const std::string text = "\n" + metrics_->Text();
    const size_t at = text.find("\n" + name);
    return at == std::string::npos ? "" : text.substr(at + 1, text.find('\n', at + 1) - at - 1);
  }
  // Waits for it: the service counts a call after its client has seen the end.
  bool MetricsCome(const std::string& line) const {
    for (int i = 0; i < 500; ++i, absl::SleepFor(absl::Milliseconds(10))) {
      if (("\n" + metrics_->Text()).find("\n" + line + "\n") != std::string::npos) return true;
    }
    return false;
  }

  FakeEngine engine_;
  std::unique_ptr<Metrics> metrics_ = Metrics::Create();
  std::unique_ptr<RouterGrpcService> service_ = RouterGrpcService::Create(*metrics_, /*per_expert_metrics=*/true);
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::RouterService::Stub> stub_;
};

TEST_F(RouterServiceTest, StreamsIdsAndTheEndOfASequence) {
  Serve();
  grpc::ClientContext context;
  auto stream = stub_->Decode(&context, Request());
  const EngineRequest submitted = engine_.WaitForRequest(1);
  EXPECT_THAT(submitted.prompt_ids, ElementsAre(5, 6, 7));
  EXPECT_EQ(submitted.sampling.seed, 11u);
  EXPECT_EQ(submitted.sampling.temperature, 0.5f);
  EXPECT_EQ(submitted.sampling.top_p, 0.9f);
  EXPECT_EQ(submitted.sampling.top_k, 40);
  EXPECT_EQ(submitted.max_tokens, 12);
  EXPECT_EQ(submitted.deadline, absl::InfiniteFuture());

  v1::DecodeResponse response;
  engine_.Send(1, FakeEngine::Token(21));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.ids(), ElementsAre(21));
  EXPECT_EQ(response.finish_reason(), "");
  TokenEvent last = FakeEngine::Token(22, FinishReason::kStop);
  last.logits_hash = 0xabc;
  last.expert_use = {{}, {1, 2, 3}};
  last.token_experts = {{}, {0, 2}};
  engine_.Send(1, last);
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.ids(), ElementsAre(22));
  EXPECT_EQ(response.finish_reason(), "stop");
  EXPECT_EQ(response.logits_hash(), "0000000000000abc");
  ASSERT_EQ(response.expert_use_size(), 1);
  EXPECT_EQ(response.expert_use(0).layer(), 1);
  EXPECT_THAT(response.expert_use(0).tokens(), ElementsAre(1, 2, 3));
  ASSERT_EQ(response.token_experts_size(), 1);
  ASSERT_EQ(response.token_experts(0).layers_size(), 1) << "the dense layer has none";
  EXPECT_EQ(response.token_experts(0).layers(0).layer(), 1);
  EXPECT_THAT(response.token_experts(0).layers(0).experts(), ElementsAre(0, 2));
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(MetricsCome("conclave_router_requests_total{code=\"OK\"} 1"));
}

TEST_F(RouterServiceTest, EveryFieldOfARequestReachesTheEngine) {
  Serve();
  v1::DecodeRequest request = Request();
  request.set_choice(3);
  for (const int id : {40, 41}) request.add_generated_ids(id);
  request.set_min_tokens(4);
  for (const int id : {9, 8}) request.add_stop_token_ids(id);
  request.set_top_logprobs(0);
  request.set_prompt_logprobs(true);
  request.set_priority(-2);
  request.set_cache_salt("tenant");
  v1::SamplingOptions& sampling = *request.mutable_sampling();
  sampling.set_min_p(0.25f);
  sampling.set_repetition_penalty(1.5f);
  sampling.set_presence_penalty(0.5f);
  sampling.set_frequency_penalty(-0.5f);
  (*sampling.mutable_logit_bias())[7] = 2.0f;
  (*sampling.mutable_logit_bias())[2] = -1.0f;
  grpc::ClientContext context;
  auto stream = stub_->Decode(&context, request);
  const EngineRequest submitted = engine_.WaitForRequest(1);
  EXPECT_THAT(submitted.generated_ids, ElementsAre(40, 41));
  EXPECT_EQ(submitted.min_tokens, 4);
  EXPECT_THAT(submitted.stop_ids, ElementsAre(9, 8));
  EXPECT_EQ(submitted.top_logprobs, 0);
  EXPECT_TRUE(submitted.prompt_logprobs);
  EXPECT_EQ(submitted.priority, -2);
  EXPECT_EQ(submitted.cache_salt, "tenant");
  EXPECT_EQ(submitted.sampling.choice, 3);
  EXPECT_EQ(submitted.sampling.min_p, 0.25f);
  EXPECT_EQ(submitted.sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(submitted.sampling.presence_penalty, 0.5f);
  EXPECT_EQ(submitted.sampling.frequency_penalty, -0.5f);
  EXPECT_THAT(submitted.sampling.logit_bias, ElementsAre(std::pair(2, -1.0f), std::pair(7, 2.0f)));
  engine_.Send(1, FakeEngine::Token(1, FinishReason::kStop));
  v1::DecodeResponse response;
  EXPECT_TRUE(stream->Read(&response));
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(RouterServiceTest, ASequenceWithoutTokensToGenerateEndsWithItsPromptsLogprobs) {
  Serve();
  v1::DecodeRequest request = Request();
  request.set_max_tokens(0);
  grpc::ClientContext context;
  auto stream = stub_->Decode(&context, request);
  EXPECT_EQ(engine_.WaitForRequest(1).max_tokens, 0);
  TokenEvent event;
  event.finish = FinishReason::kLength;
  event.prompt_logprobs = {{5, 0, {}}, {6, -1.0f, {{2, -0.5f}}}, {7, -2.0f, {}}};
  event.cached_tokens = 2;
  engine_.Send(1, event);
  v1::DecodeResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.ids_size(), 0);
  EXPECT_EQ(response.finish_reason(), "length");
  EXPECT_EQ(response.cached_tokens(), 2);
  ASSERT_EQ(response.prompt_logprobs_size(), 3);
  EXPECT_EQ(response.prompt_logprobs(2).logprob(), -2.0f);
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(MetricsCome("conclave_router_requests_total{code=\"OK\"} 1"));
  EXPECT_TRUE(MetricsCome("conclave_router_prefill_tokens_total 3"));
  EXPECT_TRUE(MetricsCome("conclave_router_decode_tokens_total 0"));
}

TEST_F(RouterServiceTest, LogprobsTravelWithTheirIds) {
  Serve();
  grpc::ClientContext context;
  auto stream = stub_->Decode(&context, Request());
  engine_.WaitForRequest(1);
  TokenEvent event = FakeEngine::Token(21, FinishReason::kLength);
  event.prompt_logprobs = {{5, 0, {}}, {6, -1.0f, {{2, -0.5f}}}};
  event.cached_tokens = 2;
  event.logprobs = TokenLogprobs{21, -0.25f, {{21, -0.25f}, {3, -2.0f}}};
  engine_.Send(1, event);
  v1::DecodeResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.cached_tokens(), 2);
  ASSERT_EQ(response.prompt_logprobs_size(), 2);
  EXPECT_EQ(response.prompt_logprobs(1).id(), 6);
  EXPECT_EQ(response.prompt_logprobs(1).top(0).id(), 2);
  ASSERT_EQ(response.logprobs_size(), 1);
  EXPECT_EQ(response.logprobs(0).id(), 21);
  EXPECT_EQ(response.logprobs(0).logprob(), -0.25f);
  ASSERT_EQ(response.logprobs(0).top_size(), 2);
  EXPECT_EQ(response.logprobs(0).top(1).id(), 3);
  EXPECT_EQ(response.logprobs(0).top(1).logprob(), -2.0f);
}

TEST_F(RouterServiceTest, TokensThatASlowClientHasNotTakenAreNotLost) {
  Serve();
  grpc::ClientContext context;
  auto stream = stub_->Decode(&context, Request());
  engine_.WaitForRequest(1);
  for (int token = 0; token < 50'000; ++token) engine_.Send(1, FakeEngine::Token(token));
  engine_.Send(1, FakeEngine::Token(50'000, FinishReason::kLength));
  std::vector<int32_t> ids;
  v1::DecodeResponse response;
  while (stream->Read(&response)) ids.insert(ids.end(), response.ids().begin(), response.ids().end());
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_EQ(ids.size(), 50'001u);
  for (int token = 0; token <= 50'000; ++token) ASSERT_EQ(ids[token], token);
  EXPECT_EQ(response.finish_reason(), "length");
}

TEST_F(RouterServiceTest, AClientThatGoesAwayCancelsItsSequence) {
  Serve();
  grpc::ClientContext context;
  auto stream = stub_->Decode(&context, Request());
  engine_.WaitForRequest(1);
  engine_.Send(1, FakeEngine::Token(1));
  v1::DecodeResponse response;
  ASSERT_TRUE(stream->Read(&response));
  context.TryCancel();
  engine_.WaitForCancel(1);
  engine_.Send(1, FakeEngine::Failure(absl::CancelledError("cancelled")));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(MetricsCome("conclave_router_requests_total{code=\"CANCELLED\"} 1"));
}

TEST_F(RouterServiceTest, TheDeadlineReachesTheEngineAndCancels) {
  Serve();
  grpc::ClientContext context;
  const absl::Time deadline = absl::Now() + absl::Seconds(3);  // in which the request must reach the engine
  context.set_deadline(absl::ToChronoTime(deadline));
  auto stream = stub_->Decode(&context, Request());
  const EngineRequest submitted = engine_.WaitForRequest(1);
  EXPECT_LT(absl::AbsDuration(submitted.deadline - deadline), absl::Seconds(3));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  engine_.WaitForCancel(1);
  engine_.Send(1, FakeEngine::Failure(absl::CancelledError("cancelled")));
}

TEST_F(RouterServiceTest, RefusalsAndFailuresKeepTheirCodeAndText) {
  Serve();
  engine_.refusal = absl::ResourceExhaustedError("the queue is full");
  grpc::Status status = DecodeOnce(Request());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "the queue is full");
  engine_.refusal = absl::OkStatus();

  grpc::ClientContext context;
  auto stream = stub_->Decode(&context, Request());
  engine_.WaitForRequest(1);
  engine_.Send(1, FakeEngine::Token(9));
  engine_.Send(1, FakeEngine::Failure(absl::UnavailableError("layer 3 expert 7: no holder answered")));
  v1::DecodeResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.ids(), ElementsAre(9));
  EXPECT_FALSE(stream->Read(&response));
  status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "layer 3 expert 7: no holder answered");
}

TEST_F(RouterServiceTest, ARequestWithoutSeedOrWithALongIdIsRefusedByName) {
  Serve();
  v1::DecodeRequest request = Request();
  request.mutable_sampling()->clear_seed();
  EXPECT_EQ(DecodeOnce(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(DecodeOnce(request).error_message(), HasSubstr("sampling.seed"));
  request = Request();
  request.set_request_id(std::string(1000, 'x'));
  EXPECT_THAT(DecodeOnce(request).error_message(), HasSubstr("request_id"));
}

TEST_F(RouterServiceTest, EverythingIsUnavailableUntilTheEngineIsThere) {
  EXPECT_EQ(DecodeOnce(Request()).error_code(), grpc::StatusCode::UNAVAILABLE);
  grpc::ClientContext context;
  v1::GetStatusResponse response;
  EXPECT_EQ(stub_->GetStatus(&context, {}, &response).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(RouterServiceTest, DrainRefusesNewSequencesAndWaitsForOpenStreams) {
  Serve();
  grpc::ClientContext context;
  auto stream = stub_->Decode(&context, Request());
  engine_.WaitForRequest(1);
  absl::Time start = absl::Now();
  service_->Drain(start + absl::Milliseconds(100));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(100));
  EXPECT_EQ(DecodeOnce(Request()).error_code(), grpc::StatusCode::UNAVAILABLE);
  grpc::ClientContext status_context;
  v1::GetStatusResponse status;
  ASSERT_TRUE(stub_->GetStatus(&status_context, {}, &status).ok());
  EXPECT_TRUE(status.draining());
  engine_.Send(1, FakeEngine::Token(1, FinishReason::kLength));
  start = absl::Now();
  service_->Drain(start + absl::Seconds(20));
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  v1::DecodeResponse response;
  EXPECT_TRUE(stream->Read(&response));
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(RouterServiceTest, ShowsStatusExpertsAndMetrics) {
  Serve();
  grpc::ClientContext status_context, map_context;
  v1::GetStatusResponse status;
  ASSERT_TRUE(stub_->GetStatus(&status_context, {}, &status).ok());
  EXPECT_EQ(status.model_id(), "demo");
  EXPECT_EQ(status.model_fingerprint(), "fingerprint");
  EXPECT_EQ(status.numeric_profile(), "profile");
  EXPECT_EQ(status.requests_queued(), 3u);
  EXPECT_EQ(status.kv_blocks_used(), 10u);
  EXPECT_EQ(status.kv_blocks_cached(), 4u);
  EXPECT_EQ(status.kv_blocks_total(), 40u);
  EXPECT_EQ(status.requests_queued_max(), 30u);
  EXPECT_EQ(status.requests_running_max(), 20u);
  EXPECT_FALSE(status.draining());
  EXPECT_EQ(status.model().vocab_size(), 61);
  EXPECT_EQ(status.model().context_tokens_max(), 96);

  v1::GetExpertMapResponse map;
  ASSERT_TRUE(stub_->GetExpertMap(&map_context, {}, &map).ok());
  EXPECT_EQ(map.placement_epoch(), 4u);
  ASSERT_EQ(map.shards_size(), 1);
  EXPECT_EQ(map.shards(0).name(), "expert-0");
  EXPECT_EQ(map.shards(0).address(), "127.0.0.1:5");
  EXPECT_FALSE(map.shards(0).healthy());
  EXPECT_TRUE(map.shards(0).avoided());
  ASSERT_EQ(map.shards(0).layers_size(), 1);
  EXPECT_THAT(map.shards(0).layers(0).experts(), ElementsAre(0, 2));
  ASSERT_EQ(map.use_size(), 1);
  EXPECT_EQ(map.use(0).layer(), 1);
  EXPECT_THAT(map.use(0).tokens(), ElementsAre(7, 0, UINT32_MAX));

  EXPECT_EQ(MetricsWith("conclave_router_kv_blocks_used"), "conclave_router_kv_blocks_used 10");
  EXPECT_EQ(MetricsWith("conclave_router_requests_running"), "conclave_router_requests_running 2");
  const std::string experts = "conclave_router_expert_tokens_total{expert=\"0\",layer=\"1\"}";
  EXPECT_EQ(MetricsWith(experts), experts + " 7");
  EXPECT_EQ(MetricsWith(experts), experts + " 7");
}

TEST_F(RouterServiceTest, WithoutTheFlagTheHottestExpertsAndTheBalanceOfLayersAreShown) {
  const auto metrics = Metrics::Create();
  const auto service = RouterGrpcService::Create(*metrics);
  service->SetEngine(&engine_, {}, [] {
    ExpertMapView here;
    here.shards.push_back({"", true, {}, 0});
    return here;
  });
  const std::string text = metrics->Text();
  EXPECT_THAT(text, Not(HasSubstr("conclave_router_expert_tokens_total{")));
  EXPECT_THAT(text, HasSubstr("conclave_router_hot_expert_share{expert=\"2\",layer=\"1\"} 0.99"));
  EXPECT_THAT(text, HasSubstr("conclave_router_layer_balancedness{layer=\"1\",of=\"experts\"} 0.33"));
  EXPECT_THAT(text, HasSubstr("conclave_router_layer_shard_tokens_total{layer=\"1\",shard=\"local\"} 1099511627783"));
}

}  // namespace
}  // namespace conclave
