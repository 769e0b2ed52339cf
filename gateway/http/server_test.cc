// The server with a handler of the test's: what connections do, apart from what is answered.
#include "gateway/http/server.h"

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gateway/http/socket_for_test.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class Handler final : public HttpHandler {
 public:
  using Answer = std::function<void(std::shared_ptr<Exchange>)>;
  explicit Handler(Answer answer) : answer_(std::move(answer)) {}

  std::optional<HttpResponse> CheckHead(const HttpRequest& head, RequestContext& context) override {
    context.request_id = "id-1";
    if (head.path != "/refused") return std::nullopt;
    HttpResponse response;
    response.status = 403;
    return response;
  }
  void Handle(std::shared_ptr<Exchange> exchange) override { answer_(std::move(exchange)); }
  void OnFinished(const ExchangeSummary& summary) override {
    absl::MutexLock lock(&mutex_);
    finished_.push_back({summary.status, summary.completed});
  }
  std::vector<std::pair<int, bool>> finished() {
    absl::MutexLock lock(&mutex_);
    return finished_;
  }

 private:
  const Answer answer_;
  absl::Mutex mutex_;
  std::vector<std::pair<int, bool>> finished_ ABSL_GUARDED_BY(mutex_);
};

bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000; ++i, absl::SleepFor(absl::Milliseconds(10))) {
    if (condition()) return true;
  }
  return false;
}

class ServerTest : public ::testing::Test {
 protected:
  void Serve(Handler::Answer answer) {
    handler_ = std::make_unique<Handler>(std::move(answer));
    auto server = HttpServer::Listen(options_, *handler_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->Start();
  }
  static std::string Get(const std::string& path = "/") {
    return absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: a\r\n\r\n");
  }
  static std::string Post(const std::string& body) {
    return absl::StrCat("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
  }

  HttpOptions options_;
  std::unique_ptr<Handler> handler_;
  std::unique_ptr<HttpServer> server_;
};

void Echo(std::shared_ptr<Exchange> exchange) {
  HttpResponse response;
  response.body = absl::StrCat("<", exchange->TakeBody(), ">");
  exchange->Respond(std::move(response));
}

TEST_F(ServerTest, AnswersRequestsOfOneConnectionInOrder) {
  Serve(Echo);
  TestSocket client(server_->address());
  client.Send(Post("one") + Get("/refused") + Post("two"));
  const std::string text = client.ReadUntil("<two>");
  EXPECT_LT(text.find("<one>"), text.find("403 Forbidden"));
  EXPECT_THAT(text, HasSubstr("X-Request-Id: id-1"));
  client.Send(Post("three"));
  EXPECT_THAT(client.ReadUntil("<three>"), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST_F(ServerTest, ARefusedBodyIsNotReadAndTheConnectionEnds) {
  Serve(Echo);
  TestSocket client(server_->address());
  client.Send("POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc");
  const std::string text = client.ReadUntil("");
  EXPECT_THAT(text, StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(text, HasSubstr("Connection: close"));
  EXPECT_THAT(text, HasSubstr("<closed>"));
}

TEST_F(ServerTest, AfterARefusalWhoseBodyHasComeTheConnectionStays) {
  Serve(Echo);
  TestSocket client(server_->address());
  client.Send("POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
  const std::string refusal = client.ReadUntil("\r\n\r\n");
  EXPECT_THAT(refusal, StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(refusal, Not(HasSubstr("Connection: close")));
  client.Send(Post("x"));
  EXPECT_THAT(client.ReadUntil("<x>"), HasSubstr("HTTP/1.1 200"));
}

TEST_F(ServerTest, AnExchangeThatIsDroppedIsAnError) {
  Serve([](std::shared_ptr<Exchange>) {});
  TestSocket client(server_->address());
  client.Send(Post("x"));
  EXPECT_THAT(client.ReadUntil("}"), StartsWith("HTTP/1.1 500"));
}

TEST_F(ServerTest, StreamsComeInChunksAndPingsFillTheWait) {
  options_.ping_interval = absl::Milliseconds(20);
  std::shared_ptr<Exchange> held;
  absl::Notification ready;
  Serve([&](std::shared_ptr<Exchange> exchange) {
    HttpResponse head;
    head.content_type = "text/event-stream";
    exchange->ExpectStream(head, ": ping\n\n");
    held = std::move(exchange);
    ready.Notify();
  });
  TestSocket client(server_->address());
  client.Send(Get());
  EXPECT_THAT(client.ReadUntil("8\r\n: ping\n\n\r\n"), HasSubstr("Transfer-Encoding: chunked"));
  ready.WaitForNotification();
  EXPECT_FALSE(held->Respond({}));  // too late for another status
  EXPECT_TRUE(held->Write("data: 1\n\n"));
  held->EndStream();
  held.reset();
  EXPECT_THAT(client.ReadUntil("0\r\n\r\n"), HasSubstr("data: 1\n\n"));
}

TEST_F(ServerTest, BeforeItsFirstByteAStreamMayStillBeAnError) {
  Serve([](std::shared_ptr<Exchange> exchange) {
    exchange->ExpectStream({}, ":");
    HttpResponse response;
    response.status = 429;
    EXPECT_TRUE(exchange->Respond(response));
    EXPECT_FALSE(exchange->Respond(response));
  });
  TestSocket client(server_->address());
  client.Send(Get());
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), StartsWith("HTTP/1.1 429"));
}

TEST_F(ServerTest, AClientThatLeavesIsTold) {
  std::atomic<int> gone{0};
  std::shared_ptr<Exchange> held;
  absl::Notification ready;
  Serve([&](std::shared_ptr<Exchange> exchange) {
    exchange->OnClientGone([&] { ++gone; });
    held = std::move(exchange);
    ready.Notify();
  });
  TestSocket client(server_->address());
  client.Send(Post("x"));
  ready.WaitForNotification();
  client.Close();
  EXPECT_TRUE(Eventually([&] { return gone == 1; }));
  EXPECT_FALSE(held->Respond({}));
  held.reset();
  EXPECT_TRUE(Eventually([&] { return server_->connections() == 0; }));
  EXPECT_THAT(handler_->finished(), ::testing::ElementsAre(std::pair(499, false)));
  EXPECT_EQ(gone, 1);
}

TEST_F(ServerTest, AClientThatDoesNotReadHoldsNoMoreThanTheLimit) {
  options_.output_bytes_max = 64 << 10;
  std::atomic<int> gone{0};
  std::atomic<int64_t> taken{0};
  absl::Notification done;
  Serve([&](std::shared_ptr<Exchange> exchange) {
    exchange->ExpectStream({}, ":");
    exchange->OnClientGone([&] { ++gone; });
    const std::string piece(1024, 'x');
    // Much more than the kernel's buffers hold; the pause lets the connection write.
    for (int i = 0; i < 200'000 && exchange->Write(piece); ++i) {
      taken += 1024;
      if (i % 16 == 0) absl::SleepFor(absl::Microseconds(200));
    }
    done.Notify();
  });
  TestSocket client(server_->address(), 4096);
  client.Send(Get());
  done.WaitForNotification();
  EXPECT_LT(taken, int64_t{200'000} * 1024);
  EXPECT_TRUE(Eventually([&] { return gone == 1 && server_->connections() == 0; }));
}

TEST_F(ServerTest, SlowClientsAreTimedOut) {
  options_.header_timeout = absl::Milliseconds(100);
  options_.body_timeout = absl::Milliseconds(100);
  options_.idle_timeout = absl::Seconds(2);  // in which this test, too, must get from a connection to its first byte
  Serve(Echo);
  TestSocket head(server_->address());
  head.Send("GET / HT");
  TestSocket body(server_->address());
  body.Send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
  TestSocket idle(server_->address());
  EXPECT_THAT(head.ReadUntil(""), StartsWith("HTTP/1.1 408"));
  EXPECT_THAT(body.ReadUntil(""), StartsWith("HTTP/1.1 408"));
  EXPECT_EQ(idle.ReadUntil(""), "<closed>");
}

TEST_F(ServerTest, BodiesOfAllConnectionsTogetherHaveALimit) {
  options_.body_bytes_max = 1000;
  options_.buffered_bytes_max = 1000;
  Serve(Echo);
  TestSocket first(server_->address()), second(server_->address());
  const std::string head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n";
  // What comes with a head is read with it, before anything of another connection.
  first.Send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\nExpect: 100-continue\r\n\r\n" +
             std::string(800, 'a'));
  EXPECT_THAT(first.ReadUntil("\r\n\r\n"), StartsWith("HTTP/1.1 100"));
  second.Send(head + std::string(800, 'b'));
  EXPECT_THAT(second.ReadUntil(""), StartsWith("HTTP/1.1 503"));
  first.Send(std::string(100, 'a'));
  EXPECT_THAT(first.ReadUntil("a>"), StartsWith("HTTP/1.1 200"));
  TestSocket third(server_->address());
  third.Send(head + std::string(900, 'c'));
  EXPECT_THAT(third.ReadUntil("c>"), StartsWith("HTTP/1.1 200"));
}

TEST_F(ServerTest, ADrainFinishesWhatRunsAndClosesTheRest) {
  std::shared_ptr<Exchange> held;
  absl::Notification ready;
  Serve([&](std::shared_ptr<Exchange> exchange) {
    held = std::move(exchange);
    ready.Notify();
  });
  TestSocket idle(server_->address()), busy(server_->address());
  busy.Send(Post("x"));
  ready.WaitForNotification();
  std::thread drain([&] { EXPECT_TRUE(server_->Drain(absl::Now() + absl::Seconds(30))); });
  EXPECT_EQ(idle.ReadUntil(""), "<closed>");
  held->Respond({});
  held.reset();
  const std::string text = busy.ReadUntil("");
  EXPECT_THAT(text, HasSubstr("Connection: close"));
  EXPECT_THAT(text, HasSubstr("<closed>"));
  busy.Close();
  drain.join();
}

TEST_F(ServerTest, AServerThatGoesTellsWhoeverStillAnswers) {
  std::atomic<int> gone{0};
  std::shared_ptr<Exchange> held;
  absl::Notification ready;
  Serve([&](std::shared_ptr<Exchange> exchange) {
    exchange->OnClientGone([&] { ++gone; });
    held = std::move(exchange);
    ready.Notify();
  });
  TestSocket client(server_->address());
  client.Send(Post("x"));
  ready.WaitForNotification();
  server_.reset();
  EXPECT_EQ(gone, 1);
  EXPECT_FALSE(held->Respond({}));
}

TEST_F(ServerTest, APortInUseIsNamed) {
  Serve(Echo);
  options_.address = server_->address();
  const auto second = HttpServer::Listen(options_, *handler_);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--http-address"));
}

}  // namespace
}  // namespace conclave
