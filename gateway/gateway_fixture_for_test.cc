#include "gateway/gateway_fixture_for_test.h"

#include <chrono>
#include <cstdio>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/generic/generic_stub.h"
#include "moe/base/test_folder.h"
#include "moe/tokenizer/chat_template.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"

namespace conclave {
namespace {

// "<|end|>" before each turn.
class FakeTemplate final : public ChatTemplate {
 public:
  absl::StatusOr<std::vector<PromptPiece>> Render(absl::Span<const ChatTurn> turns, bool,
                                                  const ChatTools&) const override {
    if (turns[0].role == "assistant") return absl::InvalidArgumentError("a chat must not begin with the assistant");
    std::vector<PromptPiece> pieces;
    for (const ChatTurn& turn : turns) {
      pieces.push_back({"<|end|>", true});
      pieces.push_back({turn.content, false});
    }
    return pieces;
  }
  absl::string_view source() const override { return "{{ messages }}"; }
};

std::unique_ptr<RouterPool> NewPool(const std::string& address, Tracer* tracer, Metrics& metrics) {
  RouterPoolOptions options;
  options.addresses = {address};
  options.tracer = tracer->enabled() ? tracer : nullptr;
  return RouterPool::Create(options, metrics);
}

template <typename Stream>
Outcome ReadAll(Stream& stream) {
  Outcome outcome;
  for (v1::GenerateResponse message; stream.Read(&message);) outcome.messages.push_back(message);
  outcome.status = stream.Finish();
  return outcome;
}

}  // namespace

std::unique_ptr<ServedModel> TinyServedModel() {
  auto model = std::make_unique<ServedModel>();
  model->name = "tiny";
  model->family = "deepseek_v3";
  model->vocab = 261;
  model->context_max = 64;
  model->eos_ids = {kTinyEnd};
  model->tokenizer = TinyTokenizer();
  model->chat_template = std::make_unique<FakeTemplate>();
  return model;
}

std::string Outcome::text(int index) const {
  std::string all;
  for (const auto& message : messages) all += message.index() == index ? message.text() : "";
  return all;
}

std::vector<int32_t> Outcome::ids(int index) const {
  std::vector<int32_t> all;
  for (const auto& message : messages) {
    if (message.index() == index) all.insert(all.end(), message.ids().begin(), message.ids().end());
  }
  return all;
}

std::string Outcome::finish_reason(int index) const {
  std::string reason;
  for (const auto& message : messages) reason += message.index() == index ? message.finish_reason() : "";
  return reason;
}

absl::StatusOr<std::shared_ptr<const Tenant>> OneTenant::Authenticate(absl::string_view shown) const {
  if (tenant == nullptr) return absl::UnauthenticatedError("this key is nobody's");
  authorization = std::string(shown);
  return tenant;
}

std::string GatewayTest::NewUsagePath() {
  const std::string path = TestFolder() + "/usage.jsonl";
  std::remove(path.c_str());
  return path;
}

std::vector<nlohmann::json> GatewayTest::UsageLines(size_t count) const {
  std::vector<nlohmann::json> lines;
  for (int i = 0; i < 500 && lines.size() < count; ++i, absl::SleepFor(absl::Milliseconds(10))) {
    lines.clear();
    std::ifstream file(usage_path_);
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
  }
  return lines;
}

GatewayTest::GatewayTest(const std::string& otlp_endpoint)
    : tracer_(Tracer::Create({otlp_endpoint, {}, 1.0}, "conclave-gateway", "test", *metrics_)),
      pool_(NewPool(router_.address, tracer_.get(), *metrics_)),
      dispatcher_(*model_, *pool_, *metrics_, usage_log_.get(), tracer_.get()) {
  EXPECT_TRUE(pool_->WaitUntilServing(absl::Now() + absl::Seconds(10)).ok());
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service_->service());
  server_ = builder.BuildAndStart();
  channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
  stub_ = v1::InferenceService::NewStub(channel_);
  service_->SetDispatcher(&dispatcher_, &authenticator_);
}

GatewayTest::~GatewayTest() { server_->Shutdown(std::chrono::system_clock::now()); }

v1::GenerateRequest GatewayTest::Text(const std::string& text) {
  v1::GenerateRequest request;
  request.set_text(text);
  return request;
}

Outcome GatewayTest::Generate(const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return ReadAll(*stub_->Generate(&context, request));
}

Outcome GatewayTest::Chat(const v1::ChatRequest& request) {
  grpc::ClientContext context;
  return ReadAll(*stub_->Chat(&context, request));
}

grpc::Status GatewayTest::SendRaw(const std::string& method, const std::string& bytes) {
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::Status status;
  absl::Notification done;
  stub.UnaryCall(&context, "/conclave.v1.InferenceService/" + method, grpc::StubOptions(), &request, &response,
                 [&](grpc::Status result) {
                   status = std::move(result);
                   done.Notify();
                 });
  done.WaitForNotification();
  return status;
}

bool GatewayTest::MetricsCome(const std::string& line) const {
  for (int i = 0; i < 500; ++i, absl::SleepFor(absl::Milliseconds(10))) {
    if (("\n" + metrics_->Text()).find("\n" + line + "\n") != std::string::npos) return true;
  }
  return false;
}

}  // namespace conclave
