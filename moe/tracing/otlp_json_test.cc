#include "moe/tracing/otlp_json.h"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

Span SampleSpan() {
  Span span;
  span.context = *ParseTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  span.context.state = "rojo=1";
  span.parent = {1, 2, 3, 4, 5, 6, 7, 8};
  span.remote_parent = true;
  span.name = "chat \"demo\"";
  span.kind = SpanKind::kServer;
  span.start = absl::FromUnixNanos(1'700'000'000'123'456'789);
  span.end = span.start + absl::Microseconds(1500);
  span.Set("gen_ai.request.model", "demo");
  span.Set("gen_ai.usage.input_tokens", 12);
  span.Set("gen_ai.request.temperature", 0.5f);
  span.Set("streamed", true);
  span.Set("gen_ai.response.finish_reasons", std::vector<std::string>{"stop", "length"});
  return span;
}

nlohmann::json FirstSpan(const Span& span) {
  const auto body = nlohmann::json::parse(OtlpTraces({{"service.name", std::string("conclave-gateway")}}, {&span, 1}));
  EXPECT_EQ(body["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"], "conclave-gateway");
  return body["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
}

TEST(OtlpJson, WritesWhatTheSpecificationSays) {
  const auto span = FirstSpan(SampleSpan());
  EXPECT_EQ(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(span["spanId"], "00f067aa0ba902b7");
  EXPECT_EQ(span["parentSpanId"], "0102030405060708");
  EXPECT_EQ(span["traceState"], "rojo=1");
  EXPECT_EQ(span["flags"], 0x301);
  EXPECT_EQ(span["name"], "chat \"demo\"");
  EXPECT_EQ(span["kind"], 2);
  EXPECT_EQ(span["startTimeUnixNano"], "1700000000123456789");
  EXPECT_EQ(span["endTimeUnixNano"], "1700000000124956789");
  EXPECT_EQ(span["status"], nlohmann::json::object());
  const auto& attributes = span["attributes"];
  ASSERT_EQ(attributes.size(), 5u);
  EXPECT_EQ(attributes[0], nlohmann::json::parse(R"({"key":"gen_ai.request.model","value":{"stringValue":"demo"}})"));
  EXPECT_EQ(attributes[1]["value"], nlohmann::json::parse(R"({"intValue":"12"})"));
  EXPECT_EQ(attributes[2]["value"], nlohmann::json::parse(R"({"doubleValue":0.5})"));
  EXPECT_EQ(attributes[3]["value"], nlohmann::json::parse(R"({"boolValue":true})"));
  EXPECT_EQ(attributes[4]["value"]["arrayValue"]["values"][1]["stringValue"], "length");
}

TEST(OtlpJson, ARootHasNoParentAndAnErrorSaysWhat) {
  Span span = SampleSpan();
  span.parent = {};
  span.remote_parent = false;
  span.error = "UNAVAILABLE: gone";
  const auto written = FirstSpan(span);
  EXPECT_FALSE(written.contains("parentSpanId"));
  EXPECT_EQ(written["flags"], 0x101);
  EXPECT_EQ(written["status"]["code"], 2);
  EXPECT_EQ(written["status"]["message"], "UNAVAILABLE: gone");
}

TEST(OtlpJson, ASpanNeverEndsBeforeItBegins) {
  Span span = SampleSpan();
  span.end = span.start - absl::Seconds(1);
  EXPECT_EQ(FirstSpan(span)["endTimeUnixNano"], FirstSpan(span)["startTimeUnixNano"]);
}

TEST(OtlpJson, AServersSpanFailsByItsOwnFaultAlone) {
  Span server = SampleSpan();
  server.SetStatus(absl::InvalidArgumentError("prompt: 'secret'"));
  EXPECT_EQ(FirstSpan(server)["status"], nlohmann::json::object());
  EXPECT_EQ(FirstSpan(server)["attributes"][5]["value"]["stringValue"], "INVALID_ARGUMENT");
  server.SetStatus(absl::UnavailableError("no shard"));
  EXPECT_EQ(FirstSpan(server)["status"]["message"], "UNAVAILABLE: no shard");
  Span client = SampleSpan();
  client.kind = SpanKind::kClient;
  client.SetStatus(absl::ResourceExhaustedError("queue full"));
  EXPECT_EQ(FirstSpan(client)["status"]["code"], 2);
  Span good = SampleSpan();
  good.SetStatus(absl::OkStatus());
  EXPECT_EQ(good.attributes.size(), 5u);
}

TEST(OtlpJson, UnsampledSpansKeepNoAttributes) {
  Span span;
  span.Set("gen_ai.request.model", "demo");
  EXPECT_TRUE(span.attributes.empty());
}

TEST(OtlpJson, RejectedSpansAreReadAndNonsenseIsNone) {
  EXPECT_EQ(RejectedSpans(R"({"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}})"), 3);
  EXPECT_EQ(RejectedSpans(R"({"partialSuccess":{"rejectedSpans":4}})"), 4);
  for (const char* answer :
       {"", "{}", "[", "{\"partialSuccess\":{}}", "{\"partialSuccess\":7}",
        R"({"partialSuccess":{"rejectedSpans":"x"}})", R"({"partialSuccess":{"rejectedSpans":-4}})"}) {
    EXPECT_EQ(RejectedSpans(answer), 0) << answer;
  }
}

}  // namespace
}  // namespace conclave
