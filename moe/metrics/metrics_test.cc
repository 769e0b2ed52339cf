#include "moe/metrics/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// What a plain HTTP GET of `path` answers.
std::string Get(const std::string& address, const std::string& path) {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + address.rfind(':') + 1)));
  std::string answer;
  if (::connect(socket, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0) {
    const std::string request = "GET " + path + " HTTP/1.0\r\n\r\n";
    if (::write(socket, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
      char buffer[4096];
      for (ssize_t got; (got = ::read(socket, buffer, sizeof(buffer))) > 0;) answer.append(buffer, got);
    }
  }
  ::close(socket);
  return answer;
}

TEST(Metrics, TextShowsHelpLabelsAndValues) {
  auto metrics = Metrics::Create();
  metrics->AddCounter("conclave_test_tokens_total", "Tokens.", {{"layer", "3"}, {"expert", "7"}})->Add(5);
  metrics->AddGauge("conclave_test_queue_requests", "Queued.", {})->Set(2);
  auto* histogram = metrics->AddHistogram("conclave_test_latency_seconds", "Latency.", {}, {0.1, 1});
  histogram->Observe(0.05);
  histogram->Observe(0.5);
  const std::string text = metrics->Text();
  EXPECT_THAT(text, HasSubstr("# HELP conclave_test_tokens_total Tokens."));
  EXPECT_THAT(text, HasSubstr("# TYPE conclave_test_tokens_total counter"));
  EXPECT_THAT(text, HasSubstr("conclave_test_tokens_total{expert=\"7\",layer=\"3\"} 5"));
  EXPECT_THAT(text, HasSubstr("conclave_test_queue_requests 2"));
  EXPECT_THAT(text, HasSubstr("conclave_test_latency_seconds_bucket{le=\"0.1\"} 1"));
  EXPECT_THAT(text, HasSubstr("conclave_test_latency_seconds_bucket{le=\"1\"} 2"));
  EXPECT_THAT(text, HasSubstr("conclave_test_latency_seconds_count 2"));
}

TEST(Metrics, ARemovedGaugeIsShownNoMoreAndMayComeBack) {
  auto metrics = Metrics::Create();
  Gauge* gone = metrics->AddGauge("conclave_test_up", "Up.", {{"shard", "a"}});
  EXPECT_EQ(gone, metrics->AddGauge("conclave_test_up", "Up.", {{"shard", "a"}}));
  gone->Set(1);
  metrics->AddGauge("conclave_test_up", "Up.", {{"shard", "b"}})->Set(1);
  metrics->RemoveGauge("conclave_test_up", {{"shard", "a"}});
  metrics->RemoveGauge("conclave_test_up", {{"shard", "c"}});
  metrics->RemoveGauge("conclave_test_unknown", {});
  EXPECT_THAT(metrics->Text(), Not(HasSubstr("shard=\"a\"")));
  EXPECT_THAT(metrics->Text(), HasSubstr("conclave_test_up{shard=\"b\"} 1"));
  metrics->AddGauge("conclave_test_up", "Up.", {{"shard", "a"}})->Set(3);
  EXPECT_THAT(metrics->Text(), HasSubstr("conclave_test_up{shard=\"a\"} 3"));
}

TEST(Metrics, TheSameNameAndLabelsAreTheSameValue) {
  auto metrics = Metrics::Create();
  metrics->AddCounter("conclave_test_total", "Help.", {{"outcome", "ok"}})->Add(1);
  metrics->AddCounter("conclave_test_total", "Help.", {{"outcome", "ok"}})->Add(2);
  metrics->AddCounter("conclave_test_total", "Help.", {{"outcome", "error"}})->Add(4);
  EXPECT_THAT(metrics->Text(), HasSubstr("{outcome=\"ok\"} 3"));
  EXPECT_THAT(metrics->Text(), HasSubstr("{outcome=\"error\"} 4"));
}

TEST(Metrics, RefreshHooksRunBeforeEachTextUntilTheyEnd) {
  auto metrics = Metrics::Create();
  auto* gauge = metrics->AddGauge("conclave_test_value", "Help.", {});
  int runs = 0;
  auto hook = metrics->OnScrape([&] { gauge->Set(++runs); });
  EXPECT_THAT(metrics->Text(), HasSubstr("conclave_test_value 1"));
  EXPECT_THAT(metrics->Text(), HasSubstr("conclave_test_value 2"));
  hook.reset();
  EXPECT_THAT(metrics->Text(), HasSubstr("conclave_test_value 2"));
}

TEST(Metrics, ServesTheTextOnAFreePortAndNothingElse) {
  auto metrics = Metrics::Create();
  metrics->AddGauge("conclave_test_value", "Help.", {})->Set(42);
  auto address = metrics->Expose("127.0.0.1:0");
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_THAT(*address, StartsWith("127.0.0.1:"));
  EXPECT_THAT(*address, Not(::testing::EndsWith(":0")));
  EXPECT_THAT(Get(*address, "/metrics"), HasSubstr("conclave_test_value 42"));
  EXPECT_THAT(Get(*address, "/etc/passwd"), HasSubstr("404"));
}

TEST(Metrics, EndsAtOnceThoughItsPortIsPolled) {
  absl::Duration took = absl::InfiniteDuration();  // the least of several: a machine may stand still for a second
  for (int i = 0; i < 5 && took >= absl::Seconds(1); ++i) {
    auto metrics = Metrics::Create();
    ASSERT_TRUE(metrics->Expose("127.0.0.1:0").ok());
    const absl::Time start = absl::Now();
    metrics.reset();
    took = std::min(took, absl::Now() - start);
  }
  EXPECT_LT(took, absl::Seconds(1));
}

TEST(Metrics, APortInUseIsUnavailableAndNamed) {
  auto first = Metrics::Create();
  auto second = Metrics::Create();
  auto address = first->Expose("127.0.0.1:0");
  ASSERT_TRUE(address.ok()) << address.status();
  auto again = second->Expose(*address);
  EXPECT_EQ(again.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(again.status().message()), HasSubstr(*address));
}

TEST(Metrics, AnIpv6AddressIsRefusedInWords) {
  const auto refused = Metrics::Create()->Expose("[::1]:0");
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("over IPv4 alone, not at [::1]:0"));
}

TEST(MetricsDeathTest, ABadNameIsOurOwnMistake) {
  auto metrics = Metrics::Create();
  EXPECT_DEATH(metrics->AddCounter("conclave:bad_total", "Help.", {}), "conclave:bad_total");
  EXPECT_DEATH(metrics->AddCounter("conclave_total", "", {}), "no help text");
}

}  // namespace
}  // namespace conclave
