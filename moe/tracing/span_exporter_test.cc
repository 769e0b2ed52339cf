#include "moe/tracing/span_exporter.h"

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/tracing/fake_collector_for_test.h"

namespace conclave {
namespace {

class SpanExporterTest : public ::testing::Test {
 protected:
  SpanExporterTest() {
    options_.collector = *ParseHttpUrl("http://" + collector_.address() + "/v1/traces");
    options_.flush_interval = absl::Milliseconds(5);
    options_.retry_pause = absl::Milliseconds(1);
    options_.tries_max = 3;
  }

  void Open() {
    const auto counter = [this](const char* outcome) {
      return metrics_->AddCounter("conclave_test_spans_total", "Spans.", {{"outcome", outcome}});
    };
    exporter_ = std::make_unique<SpanExporter>(options_, SpanCounters{counter("sent"), counter("dropped"),
                                                                      counter("failed")});
  }
  void Add(int count) {
    for (int i = 0; i < count; ++i) {
      Span span;
      span.context = *ParseTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
      span.name = absl::StrCat("span ", i);
      exporter_->Add(std::move(span));
    }
  }
  bool Counted(const std::string& outcome, int count) const {
    const std::string line = absl::StrCat("conclave_test_spans_total{outcome=\"", outcome, "\"} ", count, "\n");
    for (int i = 0; i < 2000; ++i, absl::SleepFor(absl::Milliseconds(5))) {
      if (metrics_->Text().find(line) != std::string::npos) return true;
    }
    return false;
  }

  FakeCollector collector_;
  SpanExporterOptions options_;
  std::unique_ptr<Metrics> metrics_ = Metrics::Create();
  std::unique_ptr<SpanExporter> exporter_;
};

TEST_F(SpanExporterTest, BatchesAreNoLargerThanSaidAndNothingIsLost) {
  options_.batch_spans_max = 10;
  Open();
  Add(35);
  EXPECT_TRUE(Counted("sent", 35));
  EXPECT_GE(collector_.heads().size(), 4u);
  EXPECT_EQ(collector_.spans().size(), 35u);
  EXPECT_EQ(collector_.spans()[34]["name"], "span 34");
}

TEST_F(SpanExporterTest, TheEndSendsWhatIsLeft) {
  options_.flush_interval = absl::Hours(1);
  Open();
  Add(3);
  exporter_.reset();
  EXPECT_EQ(collector_.spans().size(), 3u);
}

TEST_F(SpanExporterTest, AFullQueueDropsAndCountsAndNobodyWaits) {
  options_.queue_spans_max = 8;
  options_.batch_spans_max = 100;
  options_.flush_interval = absl::Hours(1);
  Open();
  Add(20);
  EXPECT_TRUE(Counted("dropped", 12));
  exporter_.reset();
  EXPECT_TRUE(Counted("sent", 8));
}

TEST_F(SpanExporterTest, ABusyCollectorIsTriedAgainAndTheRestIsCounted) {
  collector_.Answer("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
  Open();
  Add(2);
  EXPECT_TRUE(Counted("failed", 2));
  EXPECT_EQ(collector_.heads().size(), 3u);
  collector_.Answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
  Add(1);
  EXPECT_TRUE(Counted("sent", 1));
}

TEST_F(SpanExporterTest, ARefusalIsNotTriedAgain) {
  collector_.Answer("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
  Open();
  Add(2);
  EXPECT_TRUE(Counted("failed", 2));
  EXPECT_EQ(collector_.heads().size(), 1u);
}

TEST_F(SpanExporterTest, SpansThatTheCollectorRejectsAreCountedAsFailed) {
  const std::string body = R"({"partialSuccess":{"rejectedSpans":"1"}})";
  collector_.Answer(absl::StrCat("HTTP/1.1 200 OK\r\nContent-Length: ", body.size(), "\r\n\r\n", body));
  options_.flush_interval = absl::Milliseconds(200);
  Open();
  Add(3);
  EXPECT_TRUE(Counted("failed", 1));
  EXPECT_TRUE(Counted("sent", 2));
}

TEST_F(SpanExporterTest, AnythingButHttpAndAClosedConnectionAreFailures) {
  for (const char* answer : {"", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 2"}) {
    collector_.Answer(answer);
    metrics_ = Metrics::Create();
    Open();
    Add(1);
    EXPECT_TRUE(Counted("failed", 1)) << answer;
    exporter_.reset();
  }
}

TEST_F(SpanExporterTest, AChunkedAnswerAndOneWithoutALengthAreGood) {
  for (const char* answer :
       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n{}"}) {
    collector_.Answer(answer);
    metrics_ = Metrics::Create();
    Open();
    Add(1);
    EXPECT_TRUE(Counted("sent", 1)) << answer;
    exporter_.reset();
  }
}

TEST_F(SpanExporterTest, ACollectorThatIsDownHoldsUpNeitherSpansNorTheEnd) {
  options_.collector.port = "1";
  options_.retry_pause = absl::Hours(1);
  Open();
  Add(1000);
  const absl::Time begin = absl::Now();
  exporter_.reset();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(30));
  EXPECT_TRUE(Counted("failed", 1000));
}

}  // namespace
}  // namespace conclave
