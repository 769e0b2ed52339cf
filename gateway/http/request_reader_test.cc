#include "gateway/http/request_reader.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using State = RequestReader::State;

struct Outcome {
  State state = State::kHead;
  HttpRequest request;
  RequestFailure failure;
  size_t left = 0;  // bytes that belong to the next request
};

// Feeds `text` in pieces of `piece` bytes, as a connection would.
Outcome Read(const std::string& text, size_t piece = 1 << 20, RequestLimits limits = {}) {
  RequestReader reader(limits);
  std::string buffer;
  for (size_t at = 0; at < text.size(); at += piece) {
    buffer.append(text, at, piece);
    size_t taken = 1;
    while (taken > 0 && !buffer.empty() && reader.state() != State::kDone && reader.state() != State::kFailed) {
      taken = reader.Feed(buffer);
      buffer.erase(0, taken);
    }
    if (reader.state() == State::kDone || reader.state() == State::kFailed) {
      return {reader.state(), std::move(reader.request()), reader.failure(),
              text.size() - std::min(text.size(), at + piece) + buffer.size()};
    }
  }
  return {reader.state(), std::move(reader.request()), reader.failure(), buffer.size()};
}

std::string Post(const std::string& headers, const std::string& body) {
  return absl::StrCat("POST /v1/completions?x=1 HTTP/1.1\r\nHost: a\r\n", headers, "\r\n", body);
}

TEST(RequestReader, ReadsARequestInPiecesOfAnySize) {
  const std::string plain = Post("Content-Length: 5\r\nX-A: b \r\n", "hello");
  const std::string chunked =
      Post("Transfer-Encoding: chunked\r\n", "2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: x\r\n\r\n");
  for (const std::string& text : {plain, chunked}) {
    for (size_t piece = 1; piece <= text.size(); ++piece) {
      const Outcome outcome = Read(text, piece);
      ASSERT_EQ(outcome.state, State::kDone) << piece << " " << outcome.failure.message;
      EXPECT_EQ(outcome.request.body, "hello");
      EXPECT_EQ(outcome.request.path, "/v1/completions");
      EXPECT_EQ(outcome.request.method, "POST");
      EXPECT_TRUE(outcome.request.keep_alive);
    }
  }
  EXPECT_EQ(Read(plain).request.Header("x-a"), "b");
}

TEST(RequestReader, TakesAWholeUrlForItsPath) {
  const auto path = [](const std::string& target) {
    return Read(absl::StrCat("GET ", target, " HTTP/1.1\r\nHost: a\r\n\r\n")).request.path;
  };
  EXPECT_EQ(path("http://a:8000/v1/models?x=1"), "/v1/models");
  EXPECT_EQ(path("HTTPS://a/v1/models"), "/v1/models");
  EXPECT_EQ(path("http://a"), "/");
  EXPECT_EQ(path("http://a?x=/y"), "/");
  EXPECT_EQ(path("/http://a/"), "/http://a/");
}

TEST(RequestReader, LeavesTheNextRequestAlone) {
  const std::string two = Post("Content-Length: 2\r\n", "{}") + "GET / HTTP/1.1\r\n";
  EXPECT_EQ(Read(two).left, 16u);
}

TEST(RequestReader, StopsAfterTheHead) {
  RequestReader reader({});
  const std::string text = Post("Content-Length: 5\r\n", "hello");
  EXPECT_EQ(reader.Feed(text), text.size() - 5);
  EXPECT_EQ(reader.state(), State::kHeadDone);
  EXPECT_EQ(reader.content_length(), 5);
}

TEST(RequestReader, ARequestWithoutABodyIsDoneWithItsHead) {
  EXPECT_EQ(Read("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").state, State::kDone);
  EXPECT_FALSE(Read("GET /health HTTP/1.0\r\n\r\n").request.keep_alive);
  EXPECT_TRUE(Read(Post("Expect: 100-continue\r\nContent-Length: 2\r\n", "")).request.expects_continue);
}

int Status(const std::string& text, RequestLimits limits = {}) {
  const int whole = Read(text, 1 << 20, limits).failure.status;
  const Outcome pieces = Read(text, 7, limits);
  EXPECT_EQ(pieces.state, State::kFailed) << text.substr(0, 200);
  EXPECT_EQ(pieces.failure.status, whole) << text.substr(0, 200);
  return whole;
}

TEST(RequestReader, LimitsHaveTheirStatus) {
  RequestLimits limits;
  limits.header_bytes_max = 1000;
  limits.headers_max = 5;
  limits.body_bytes_max = 10;
  EXPECT_EQ(Status(Post("X: " + std::string(2000, 'a') + "\r\n", ""), limits), 431);
  EXPECT_EQ(Status("GET /" + std::string(2000, 'a'), limits), 431);
  EXPECT_EQ(Status(Post("a: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\ne: 5\r\n", ""), limits), 431);
  EXPECT_EQ(Status(Post("Content-Length: 11\r\n", ""), limits), 413);
  EXPECT_EQ(Status(Post("Transfer-Encoding: chunked\r\n", "6\r\nabcdef\r\n6\r\nabcdef\r\n"), limits), 413);
}

TEST(RequestReader, WhatContradictsItselfIsRefused) {
  for (const char* headers :
       {"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n", "Content-Length: -2\r\n",
        "Content-Length: 99999999999999999999\r\n", "Host: b\r\n", "X Y: 1\r\n"}) {
    EXPECT_EQ(Status(Post(headers, "{}")), 400) << headers;
  }
  EXPECT_EQ(Status("GET / HTTP/1.1\r\n\r\n"), 400);
  EXPECT_EQ(Status("GET / HTTP/2.0\r\n\r\n"), 505);
  EXPECT_EQ(Status(Post("Transfer-Encoding: gzip, chunked\r\n", "")), 501);
  EXPECT_EQ(Status(Post("Content-Encoding: gzip\r\nContent-Length: 2\r\n", "")), 415);
}

TEST(RequestReader, DamagedChunksAreRefused) {
  for (const char* size : {"-2", "g", "", "1ffffffffffffffff", " 1", "0x1"}) {
    EXPECT_EQ(Status(Post("Transfer-Encoding: chunked\r\n", absl::StrCat(size, "\r\nab\r\n\r\n"))), 400) << size;
  }
  const std::string endless = "1;" + std::string(10'000, 'x');
  EXPECT_EQ(Status(Post("Transfer-Encoding: chunked\r\n", endless)), 400);
}

}  // namespace
}  // namespace conclave
