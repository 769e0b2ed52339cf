#include "cli/bench/event_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The data of all events, with the stream cut into pieces of `bytes`.
std::vector<std::string> Events(const std::string& stream, size_t bytes) {
  EventStreamParser parser;
  std::vector<std::string> events;
  for (size_t i = 0; i < stream.size(); i += bytes) {
    const absl::Status status =
        parser.Feed(stream.substr(i, bytes), [&events](absl::string_view data) { events.emplace_back(data); });
    EXPECT_TRUE(status.ok()) << status;
  }
  return events;
}

TEST(EventStreamTest, EventsAreFoundHoweverTheStreamIsCut) {
  const std::string stream =
      ": ping\n\ndata: one\n\nevent: x\ndata:two\r\ndata: lines\r\n\r\nid: 3\n\ndata\n\rdata: [DONE]\r\rdata: "
      "unfinished";
  for (size_t bytes = 1; bytes <= stream.size(); ++bytes) {
    EXPECT_THAT(Events(stream, bytes), ElementsAre("one", "two\nlines", "", "[DONE]")) << bytes;
  }
}

TEST(EventStreamTest, AnEventWithoutEndIsRefused) {
  EventStreamParser parser;
  absl::Status status;
  for (int i = 0; i < 20 && status.ok(); ++i) {
    status = parser.Feed(std::string(1 << 20, 'x'), [](absl::string_view) {});
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status));
}

TEST(CompletionEventTest, PiecesTheFinishAndUsageAreToldApart) {
  const auto piece = ParseCompletionEvent(R"({"choices": [{"text": "a", "finish_reason": null}], "usage": null})");
  ASSERT_TRUE(piece.ok());
  EXPECT_TRUE(piece->piece);
  EXPECT_FALSE(piece->finished || piece->done || piece->error.has_value() || piece->prompt_tokens.has_value());

  // Half a character: a token has come, though no text has.
  EXPECT_TRUE(ParseCompletionEvent(R"({"choices": [{"text": "", "finish_reason": null}]})")->piece);

  const auto finish = ParseCompletionEvent(R"({"choices": [{"text": "", "finish_reason": "length"}]})");
  EXPECT_TRUE(finish->finished);
  EXPECT_FALSE(finish->piece);

  const auto usage = ParseCompletionEvent(
      R"({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7,
          "prompt_tokens_details": {"cached_tokens": 3}}})");
  EXPECT_FALSE(usage->piece);
  EXPECT_EQ(usage->prompt_tokens, 5);
  EXPECT_EQ(usage->completion_tokens, 7);
  EXPECT_EQ(usage->cached_tokens, 3);
  EXPECT_TRUE(ParseCompletionEvent("[DONE]")->done);
}

TEST(CompletionEventTest, AnErrorInMidStreamIsOne) {
  EXPECT_EQ(ParseCompletionEvent(R"({"error": {"message": "lost", "type": "server_error"}})")->error,
            "server_error: lost");
  EXPECT_EQ(ParseCompletionEvent(R"({"error": "lost"})")->error, "\"lost\"");
}

TEST(CompletionEventTest, OtherDataIsRefused) {
  for (const char* data : {"", "nonsense", "[1]", "{\"choices\": [1]}", "{\"choices\": \n"}) {
    EXPECT_FALSE(ParseCompletionEvent(data).ok()) << data;
  }
}

TEST(ErrorMessageTest, TheMessageIsTakenOutOfTheBody) {
  EXPECT_EQ(ErrorMessageOf(R"({"error": {"message": "no key", "type": "invalid_request_error", "param": null}})"),
            "invalid_request_error: no key");
  EXPECT_EQ(ErrorMessageOf("<html>"), "<html>");
  EXPECT_THAT(ErrorMessageOf(std::string(1000, 'x')), ::testing::SizeIs(200));
}

}  // namespace
}  // namespace conclave
