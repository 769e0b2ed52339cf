// One client's connection: reads requests one after the other, has each answered, writes the answers. Private to the
// server.
#ifndef CONCLAVE_GATEWAY_HTTP_CONNECTION_H_
#define CONCLAVE_GATEWAY_HTTP_CONNECTION_H_

#include <array>
#include <boost/asio/steady_timer.hpp>
#include <boost/system/error_code.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gateway/http/exchange.h"
#include "gateway/http/output.h"
#include "gateway/http/request_reader.h"
#include "gateway/http/server_core.h"
#include "gateway/http/stream.h"

namespace conclave {

// Lives as long as something of it is under way. All but Wake, Abort and BeginDrain runs on the socket's strand.
class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<ServerCore> core, HttpStream::Socket socket);
  ~Connection();

  // Begins to serve; or, where there are too many connections already, says so and closes.
  void Start();
  void StartRefusing();

  // Any thread.
  void Wake();        // the output of the exchange has something to send
  void Abort();       // closes at once
  void BeginDrain();  // closes where nothing is under way; else that happens after the answer

 private:
  using ErrorCode = boost::system::error_code;
  // What the connection waits for. In kRunning it still reads, to see the client go and to take the next request.
  enum class Phase { kHandshake, kIdle, kHead, kBody, kRunning, kRefusing, kLingering, kClosed };
  enum class After { kNothing, kExchangeEnds, kLinger };

  void Read();
  void OnRead(const ErrorCode& error, size_t bytes);
  void OnEndOfInput();
  void Advance();
  // False: the request is refused.
  bool CheckHead();
  bool CheckBudget();
  void Dispatch();
  void Refuse(HttpResponse response);

  void SetTimer(absl::Duration time);
  void OnTimeout();
  void SetPingTimer();

  void SendOutput(bool ping_due);
  void Send(std::string bytes, After after);
  void WriteMore();
  void OnWritten(const ErrorCode& error, size_t bytes);
  void AfterWrite();
  void SetWriteTimer();

  void NextRequest();
  void FinishExchange(bool completed);
  void ClientGone();
  void Linger();
  void Close();
  bool KeepsAlive() const;

  const std::shared_ptr<ServerCore> core_;
  HttpStream stream_;
  std::string peer_;
  Phase phase_ = Phase::kIdle;

  std::array<char, 16384> chunk_;  // of the read under way
  bool reading_ = false;
  bool input_ended_ = false;
  std::string input_;  // read and not parsed
  std::optional<RequestReader> reader_;
  bool head_checked_ = false;
  int64_t budget_taken_ = 0;
  int64_t lingered_bytes_ = 0;

  // Of the request that is being read or answered.
  RequestContext context_;
  HttpRequest head_;  // without the body: for the log, and for what HTTP/1.0 and HEAD change
  std::shared_ptr<Output> output_;
  ExchangeSummary summary_;
  absl::Time began_;
  bool chunked_ = false;      // a stream's head has gone out, and said so
  int64_t stream_bytes_ = 0;  // of the write under way, before framing

  std::string writing_, write_next_;
  size_t written_ = 0;
  bool write_running_ = false;
  After after_ = After::kNothing;

  boost::asio::steady_timer timer_, write_timer_, ping_timer_;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_CONNECTION_H_
