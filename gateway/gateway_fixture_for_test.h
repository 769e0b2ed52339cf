// A gateway in one process with an attention service that answers as a test says. For tests only.
#ifndef CONCLAVE_GATEWAY_GATEWAY_FIXTURE_FOR_TEST_H_
#define CONCLAVE_GATEWAY_GATEWAY_FIXTURE_FOR_TEST_H_

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "conclave/v1/inference.grpc.pb.h"
#include "gateway/caller.h"
#include "gateway/dispatcher.h"
#include "gateway/fake_router_for_test.h"
#include "gateway/inference_service.h"
#include "gateway/routers/router_pool.h"
#include "gateway/served_model.h"
#include "gateway/tenants/usage_log.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "moe/metrics/metrics.h"
#include "moe/tracing/tracer.h"

namespace conclave {

// The tiny tokenizer's model "tiny": 261 ids, a context of 64, and a chat template that puts "<|end|>" before a turn.
std::unique_ptr<ServedModel> TinyServedModel();

// What came of a call.
struct Outcome {
  grpc::Status status;
  std::vector<v1::GenerateResponse> messages;
  // Of one answer.
  std::string text(int index = 0) const;
  std::vector<int32_t> ids(int index = 0) const;
  std::string finish_reason(int index = 0) const;
};

// Lets everyone in as the tenant that the test sets; nobody where that is null.
class OneTenant final : public Authenticator {
 public:
  absl::StatusOr<std::shared_ptr<const Tenant>> Authenticate(absl::string_view authorization) const override;
  std::shared_ptr<const Tenant> tenant = std::make_shared<const Tenant>(Tenant{"default", 0, 0, 0, 0, {}, ""});
  mutable std::string authorization;  // shown last
};

// Client → gRPC front → dispatcher → fake attention service.
class GatewayTest : public ::testing::Test {
 protected:
  // otlp_endpoint: where traces go; empty: nothing is traced.
  explicit GatewayTest(const std::string& otlp_endpoint = "");
  ~GatewayTest() override;

  static v1::GenerateRequest Text(const std::string& text);
  Outcome Generate(const v1::GenerateRequest& request);
  Outcome Chat(const v1::ChatRequest& request);
  // Sends bytes that need not be a message, and returns the status.
  grpc::Status SendRaw(const std::string& method, const std::string& bytes);
  // Whether the metrics come to contain the line within some seconds.
  bool MetricsCome(const std::string& line) const;
  // The usage log, line by line, once it has so many.
  std::vector<nlohmann::json> UsageLines(size_t count) const;

  static std::string NewUsagePath();

  FakeRouter router_;
  std::unique_ptr<ServedModel> model_ = TinyServedModel();
  std::unique_ptr<Metrics> metrics_ = Metrics::Create();
  OneTenant authenticator_;
  std::unique_ptr<Tracer> tracer_;
  std::unique_ptr<RouterPool> pool_;
  std::string usage_path_ = NewUsagePath();
  std::unique_ptr<UsageLog> usage_log_ = *UsageLog::Open(usage_path_, 0);
  Dispatcher dispatcher_;
  std::unique_ptr<InferenceGrpcService> service_ = InferenceGrpcService::Create();
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_GATEWAY_FIXTURE_FOR_TEST_H_
