#include "router_service/decode_trace.h"

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/numbers.h"
#include "gtest/gtest.h"
#include "moe/metrics/metrics.h"
#include "moe/tracing/fake_collector_for_test.h"

namespace conclave {
namespace {

const absl::Time kArrival = absl::FromUnixSeconds(1'700'000'000);

// The spans by name that come of one call.
std::map<std::string, nlohmann::json> SpansOf(const DecodeProgress& progress, const absl::Status& status,
                                              absl::Duration took) {
  FakeCollector collector;
  const auto metrics = Metrics::Create();
  {
    const auto tracer = Tracer::Create({"http://" + collector.address(), {}, 1.0}, "test", "test", *metrics);
    Span call = tracer->Start("call", SpanKind::kServer, {}, kArrival);
    EndDecodeTrace(*tracer, std::move(call), progress, status, kArrival + took);
  }
  std::map<std::string, nlohmann::json> spans;
  for (const auto& span : collector.spans()) spans[span["name"]] = span;
  return spans;
}

// Milliseconds since the arrival.
int64_t At(const nlohmann::json& span, const char* key) {
  int64_t nanos = 0;
  EXPECT_TRUE(absl::SimpleAtoi(span[key].get<std::string>(), &nanos));
  return (nanos - absl::ToUnixNanos(kArrival)) / 1'000'000;
}

TEST(DecodeTrace, PhasesFollowEachOtherWithinTheCall) {
  DecodeProgress progress;
  progress.admission = kArrival + absl::Milliseconds(10);
  progress.first_token = kArrival + absl::Milliseconds(40);
  progress.prompt_tokens = 100;
  progress.cached_tokens = 96;
  progress.generated_tokens = 7;
  auto spans = SpansOf(progress, absl::OkStatus(), absl::Milliseconds(90));
  ASSERT_EQ(spans.size(), 4u);
  for (const char* phase : {"queue", "prefill", "decode"}) {
    EXPECT_EQ(spans[phase]["parentSpanId"], spans["call"]["spanId"]) << phase;
    EXPECT_EQ(spans[phase]["traceId"], spans["call"]["traceId"]) << phase;
  }
  EXPECT_EQ(At(spans["queue"], "startTimeUnixNano"), 0);
  EXPECT_EQ(At(spans["queue"], "endTimeUnixNano"), 10);
  EXPECT_EQ(At(spans["prefill"], "startTimeUnixNano"), 10);
  EXPECT_EQ(At(spans["prefill"], "endTimeUnixNano"), 40);
  EXPECT_EQ(At(spans["decode"], "endTimeUnixNano"), 90);
  EXPECT_EQ(spans["prefill"]["attributes"][1]["value"]["intValue"], "96");
  EXPECT_EQ(spans["decode"]["attributes"][0]["value"]["intValue"], "7");
}

TEST(DecodeTrace, WhoNeverLeftTheQueueHasNoOtherPhase) {
  auto spans = SpansOf({}, absl::DeadlineExceededError("late"), absl::Milliseconds(5));
  EXPECT_EQ(spans.size(), 2u);
  EXPECT_EQ(At(spans["queue"], "endTimeUnixNano"), 5);
  EXPECT_EQ(spans["call"]["status"]["message"], "DEADLINE_EXCEEDED: late");
}

TEST(DecodeTrace, PhasesStayWithinTheCallWhateverTheClocksSay) {
  DecodeProgress progress;
  progress.admission = kArrival - absl::Milliseconds(10);
  progress.first_token = kArrival + absl::Hours(1);
  auto spans = SpansOf(progress, absl::OkStatus(), absl::Milliseconds(5));
  EXPECT_EQ(At(spans["prefill"], "startTimeUnixNano"), 0);
  EXPECT_EQ(At(spans["prefill"], "endTimeUnixNano"), 5);
  EXPECT_EQ(At(spans["decode"], "startTimeUnixNano"), 5);
}

}  // namespace
}  // namespace conclave
