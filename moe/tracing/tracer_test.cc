#include "moe/tracing/tracer.h"

#include <set>
#include <string>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/tracing/fake_collector_for_test.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

constexpr char kParent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0";

std::unique_ptr<Tracer> NewTracer(const std::string& endpoint, double ratio, Metrics& metrics) {
  TracingOptions options;
  options.endpoint = endpoint;
  options.ratio = ratio;
  options.headers = {"Authorization=Bearer a=b"};
  EXPECT_TRUE(options.Validate().ok()) << options.Validate();
  return Tracer::Create(options, "conclave-test", "test-0", metrics);
}

TEST(Tracer, WithoutAnEndpointItIsOff) {
  const auto metrics = Metrics::Create();
  EXPECT_FALSE(NewTracer("", 1, *metrics)->enabled());
}

TEST(Tracer, SpansArriveWithTheirParentsResourceAndHeaders) {
  FakeCollector collector;
  const auto metrics = Metrics::Create();
  {
    const auto tracer = NewTracer("http://" + collector.address(), 1, *metrics);
    const absl::Time now = absl::Now();
    Span request = tracer->Start("request", SpanKind::kServer, {}, now);
    Span inner = tracer->Start("inner", SpanKind::kInternal, request.context, now);
    tracer->End(inner, now + absl::Milliseconds(1));
    tracer->End(request, now + absl::Milliseconds(2));
  }
  const auto spans = collector.spans();
  ASSERT_EQ(spans.size(), 2u);
  EXPECT_EQ(spans[0]["name"], "inner");
  EXPECT_EQ(spans[0]["traceId"], spans[1]["traceId"]);
  EXPECT_EQ(spans[0]["parentSpanId"], spans[1]["spanId"]);
  EXPECT_FALSE(spans[1].contains("parentSpanId"));
  EXPECT_THAT(collector.heads().front(), HasSubstr("POST /v1/traces HTTP/1.1\r\n"));
  EXPECT_THAT(collector.heads().front(), HasSubstr("Authorization: Bearer a=b\r\n"));
  EXPECT_THAT(collector.heads().front(), HasSubstr("Content-Type: application/json\r\n"));
  EXPECT_THAT(metrics->Text(), HasSubstr("conclave_tracing_spans_total{outcome=\"sent\"} 2"));
}

TEST(Tracer, WhoBeganATraceDecidesWhetherItIsKept) {
  FakeCollector collector;
  const auto metrics = Metrics::Create();
  const auto never = NewTracer("http://" + collector.address(), 0, *metrics);
  const auto always = NewTracer("http://" + collector.address(), 1, *metrics);
  const std::string kept = std::string(kParent) + "1", dropped = std::string(kParent) + "0";
  const auto start = [](Tracer& tracer, const std::string& parent) {
    return tracer.Start("s", SpanKind::kServer, tracer.Accept({parent}, "a=1"), absl::Now());
  };
  EXPECT_TRUE(start(*never, kept).sampled());
  EXPECT_FALSE(start(*always, dropped).sampled());
  EXPECT_TRUE(start(*always, kept).remote_parent);
  EXPECT_EQ(start(*always, kept).context.state, "a=1");
  EXPECT_FALSE(never->Start("s", SpanKind::kServer, {}, absl::Now()).sampled());
  EXPECT_TRUE(always->Start("s", SpanKind::kServer, {}, absl::Now()).sampled());
}

TEST(Tracer, TheRatioIsKeptAndIdsAreUnique) {
  FakeCollector collector;
  const auto metrics = Metrics::Create();
  const auto tracer = NewTracer("http://" + collector.address(), 0.25, *metrics);
  int kept = 0;
  std::set<std::string> ids;
  for (int i = 0; i < 4000; ++i) {
    const Span span = tracer->Start("s", SpanKind::kServer, {}, absl::Now());
    kept += span.sampled();
    ids.insert(Hex(span.context.trace_id) + Hex(span.context.span_id));
  }
  EXPECT_NEAR(kept, 1000, 200);  // seven standard deviations
  EXPECT_EQ(ids.size(), 4000u);
}

TEST(Tracer, MalformedAndManifoldParentsAreCountedAndBeginANewTrace) {
  FakeCollector collector;
  const auto metrics = Metrics::Create();
  const auto tracer = NewTracer("http://" + collector.address(), 1, *metrics);
  const std::string good = std::string(kParent) + "1";
  EXPECT_FALSE(tracer->Accept({}, "").valid());
  EXPECT_THAT(metrics->Text(), HasSubstr("conclave_tracing_malformed_parents_total 0"));
  EXPECT_FALSE(tracer->Accept({"nonsense"}, "").valid());
  EXPECT_FALSE(tracer->Accept({good, good}, "").valid());
  EXPECT_TRUE(tracer->Accept({good}, "").valid());
  EXPECT_THAT(metrics->Text(), HasSubstr("conclave_tracing_malformed_parents_total 2"));
}

TEST(Tracer, BadOptionsAreNamedAndSecretsNotRepeated) {
  TracingOptions options;
  options.ratio = 1.5;
  EXPECT_THAT(std::string(options.Validate().message()), HasSubstr("--trace-ratio: 1.5"));
  options.ratio = 1;
  for (const char* endpoint : {"https://collector:4318", "collector:4318", "http://", "http://a:0", "http://a:x",
                               "http://u:p@a:1", "http://a:1/?x", "http://[::1:4318", "http://a b:1"}) {
    options.endpoint = endpoint;
    EXPECT_THAT(std::string(options.Validate().message()), HasSubstr("--otlp-endpoint: '")) << endpoint;
  }
  options.endpoint = "http://[::1]:4318/base/";
  EXPECT_TRUE(options.Validate().ok());
  options.headers = {"x-key=secret\r\n"};
  EXPECT_THAT(std::string(options.Validate().message()), HasSubstr("--otlp-header: "));
  EXPECT_THAT(std::string(options.Validate().message()), ::testing::Not(HasSubstr("secret")));
  options.headers = {"novalue"};
  EXPECT_FALSE(options.Validate().ok());
}

}  // namespace
}  // namespace conclave
