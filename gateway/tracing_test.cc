// The gateway's spans: what a collector gets, and what an attention service is told.
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gateway/gateway_fixture_for_test.h"
#include "gmock/gmock.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"
#include "moe/tracing/fake_collector_for_test.h"
#include "moe/tracing/trace_context.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kParent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

// Before the fixture, which sends spans to it.
struct CollectorHolder {
  FakeCollector collector_;
};

class TracingTest : protected CollectorHolder, public GatewayTest {
 protected:
  TracingTest() : GatewayTest("http://" + collector_.address()) {}

  Outcome GenerateWith(const std::multimap<std::string, std::string>& metadata, const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    for (const auto& [name, value] : metadata) context.AddMetadata(name, value);
    Outcome outcome;
    const auto stream = stub_->Generate(&context, request);
    for (v1::GenerateResponse message; stream->Read(&message);) outcome.messages.push_back(message);
    outcome.status = stream->Finish();
    return outcome;
  }

  // The spans by their names, once there are so many.
  std::map<std::string, nlohmann::json> Spans(size_t count) {
    for (int i = 0; i < 1000 && collector_.spans().size() < count; ++i) absl::SleepFor(absl::Milliseconds(10));
    std::map<std::string, nlohmann::json> spans;
    for (const auto& span : collector_.spans()) spans[span["name"]] = span;
    return spans;
  }
};

std::string Attribute(const nlohmann::json& span, const std::string& key) {
  for (const auto& attribute : span["attributes"]) {
    if (attribute["key"] == key) return attribute["value"].begin()->dump();
  }
  return "";
}

std::vector<std::string> Metadata(const grpc::ServerContext& context, const std::string& name) {
  std::vector<std::string> values;
  const auto [begin, end] = context.client_metadata().equal_range(name);
  for (auto found = begin; found != end; ++found) values.emplace_back(found->second.data(), found->second.size());
  return values;
}

TEST_F(TracingTest, ARequestsSpansAreNestedBelowTheCallersAndTheRouterHearsOfThem) {
  absl::Mutex mutex;
  std::vector<std::string> parents, states;
  router_.Answer([&](grpc::ServerContext* context, const v1::DecodeRequest&, DecodeWriter* writer) {
    absl::MutexLock lock(&mutex);
    parents = Metadata(*context, "traceparent");
    states = Metadata(*context, "tracestate");
    writer->Write(Ids({'h', 'i', kTinyEnd}, "stop"));
    return grpc::Status::OK;
  });
  v1::GenerateRequest request = Text("a secret prompt");
  request.set_max_tokens(9);
  request.mutable_sampling()->set_temperature(0.5f);
  EXPECT_TRUE(GenerateWith({{"traceparent", kParent}, {"tracestate", "rojo=1"}}, request).status.ok());

  auto spans = Spans(4);
  ASSERT_EQ(spans.size(), 4u);
  const auto& call = spans["conclave.v1.InferenceService/Generate"];
  const auto& chat = spans["text_completion tiny"];
  const auto& tokenise = spans["tokenise"];
  const auto& dispatch = spans["dispatch"];
  for (const auto& [name, span] : spans) EXPECT_EQ(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736") << name;
  EXPECT_EQ(call["parentSpanId"], "00f067aa0ba902b7");
  EXPECT_EQ(chat["parentSpanId"], call["spanId"]);
  EXPECT_EQ(tokenise["parentSpanId"], chat["spanId"]);
  EXPECT_EQ(dispatch["parentSpanId"], chat["spanId"]);
  EXPECT_EQ(call["kind"], 2);
  EXPECT_EQ(dispatch["kind"], 3);
  {
    absl::MutexLock lock(&mutex);
    EXPECT_THAT(parents, ElementsAre(absl::StrCat("00-4bf92f3577b34da6a3ce929d0e0e4736-",
                                                  dispatch["spanId"].get<std::string>(), "-01")));
    EXPECT_THAT(states, ElementsAre("rojo=1"));
  }
  EXPECT_EQ(Attribute(chat, "gen_ai.request.model"), "\"tiny\"");
  EXPECT_EQ(Attribute(chat, "gen_ai.operation.name"), "\"text_completion\"");
  EXPECT_EQ(Attribute(chat, "gen_ai.request.max_tokens"), "\"9\"");
  EXPECT_EQ(Attribute(chat, "gen_ai.request.temperature"), "0.5");
  EXPECT_EQ(Attribute(chat, "gen_ai.usage.output_tokens"), "\"3\"");
  EXPECT_EQ(Attribute(chat, "gen_ai.usage.input_tokens"), Attribute(tokenise, "gen_ai.usage.input_tokens"));
  EXPECT_THAT(Attribute(chat, "gen_ai.response.finish_reasons"), HasSubstr("stop"));
  EXPECT_EQ(Attribute(dispatch, "server.address"), absl::StrCat("\"", router_.address, "\""));
  EXPECT_THAT(nlohmann::json(spans).dump(), Not(HasSubstr("secret")));
}

TEST_F(TracingTest, AMalformedParentIsCountedAndTheRequestBeginsATraceOfItsOwn) {
  EXPECT_TRUE(GenerateWith({{"traceparent", "00-xyz"}}, Text("x")).status.ok());
  auto spans = Spans(4);
  EXPECT_FALSE(spans["conclave.v1.InferenceService/Generate"].contains("parentSpanId"));
  EXPECT_TRUE(MetricsCome("conclave_tracing_malformed_parents_total 1"));
}

TEST_F(TracingTest, WhatTheCallerDoesNotKeepIsNotSent) {
  const std::string unsampled = std::string(kParent).replace(54, 1, "0");
  EXPECT_TRUE(GenerateWith({{"traceparent", unsampled}}, Text("x")).status.ok());
  EXPECT_TRUE(GenerateWith({}, Text("y")).status.ok());
  for (const auto& [name, span] : Spans(4)) EXPECT_NE(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736") << name;
  EXPECT_EQ(collector_.spans().size(), 4u);
}

TEST_F(TracingTest, ARefusedRequestSaysWhatItWasAndFailsNobody) {
  v1::GenerateRequest request = Text("x");
  request.set_max_tokens(-1);
  EXPECT_EQ(GenerateWith({}, request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  auto spans = Spans(2);
  EXPECT_EQ(Attribute(spans["text_completion tiny"], "error.type"), "\"INVALID_ARGUMENT\"");
  EXPECT_EQ(spans["text_completion tiny"]["status"], nlohmann::json::object());
  EXPECT_EQ(Attribute(spans["conclave.v1.InferenceService/Generate"], "rpc.grpc.status_code"), "\"3\"");
}

TEST_F(TracingTest, EveryChoiceAndEveryAttemptHasASpanAndAFailureSaysWhy) {
  router_.Answer([](grpc::ServerContext*, const v1::DecodeRequest& request, DecodeWriter* writer) {
    if (request.choice() == 1) return grpc::Status(grpc::StatusCode::INTERNAL, "broken");
    writer->Write(Ids({'a', kTinyEnd}, "stop"));
    return grpc::Status::OK;
  });
  v1::GenerateRequest request = Text("x");
  request.set_n(2);
  EXPECT_FALSE(GenerateWith({}, request).status.ok());
  Spans(5);
  std::map<std::string, nlohmann::json> by_choice;
  for (const auto& span : collector_.spans()) {
    if (span["name"] == "dispatch") by_choice[Attribute(span, "conclave.choice")] = span;
  }
  ASSERT_EQ(by_choice.size(), 2u);
  EXPECT_EQ(by_choice["\"1\""]["status"]["message"], "INTERNAL: broken");
}

// A caller that traces, and a gateway that does not.
class UntracedTest : public GatewayTest {};

TEST_F(UntracedTest, NothingIsReadOrPassedOn) {
  std::vector<std::string> parents = {"none yet"};
  router_.Answer([&](grpc::ServerContext* context, const v1::DecodeRequest&, DecodeWriter* writer) {
    parents = Metadata(*context, "traceparent");
    writer->Write(Ids({kTinyEnd}, "stop"));
    return grpc::Status::OK;
  });
  grpc::ClientContext context;
  context.AddMetadata("traceparent", "00-nonsense");
  const auto stream = stub_->Generate(&context, Text("x"));
  for (v1::GenerateResponse message; stream->Read(&message);) {
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(parents.empty());
  EXPECT_TRUE(MetricsCome("conclave_tracing_malformed_parents_total 0"));
}

}  // namespace
}  // namespace conclave
