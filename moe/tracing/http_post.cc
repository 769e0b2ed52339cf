#include "moe/tracing/http_post.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr size_t kAnswerBytesMax = 64 << 10;

// A socket that closes itself; its calls wait by poll, until the deadline.
class Connection {
 public:
  Connection(int socket, absl::Time deadline) : socket_(socket), deadline_(deadline) {}
  ~Connection() { ::close(socket_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  absl::Status Connect(const addrinfo& to) {
    if (::connect(socket_, to.ai_addr, to.ai_addrlen) == 0) return absl::OkStatus();
    if (errno != EINPROGRESS) return Failure();
    RETURN_IF_ERROR(Await(POLLOUT));
    int error = 0;
    socklen_t size = sizeof(error);
    ::getsockopt(socket_, SOL_SOCKET, SO_ERROR, &error, &size);
    errno = error;
    return error == 0 ? absl::OkStatus() : Failure();
  }

  absl::Status Write(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent > 0) {
        bytes.remove_prefix(static_cast<size_t>(sent));
      } else if (errno == EAGAIN || errno == EINTR) {
        RETURN_IF_ERROR(Await(POLLOUT));
      } else {
        return Failure();
      }
    }
    return absl::OkStatus();
  }

  // Appends what has come; false: the peer has closed.
  absl::StatusOr<bool> Read(std::string& into) {
    char buffer[4096];
    while (true) {
      const ssize_t got = ::recv(socket_, buffer, sizeof(buffer), 0);
      if (got > 0) into.append(buffer, static_cast<size_t>(got));
      if (got >= 0) return got > 0;
      if (errno != EAGAIN && errno != EINTR) return Failure();
      RETURN_IF_ERROR(Await(POLLIN));
    }
  }

 private:
  static absl::Status Failure() { return absl::UnavailableError(std::strerror(errno)); }

  absl::Status Await(short events) {
    const absl::Duration left = deadline_ - absl::Now();
    pollfd waited{socket_, events, 0};
    const int64_t milliseconds = std::clamp<int64_t>(absl::ToInt64Milliseconds(left), 0, 1 << 30);
    const int ready = ::poll(&waited, 1, static_cast<int>(milliseconds));
    if (ready > 0 || (ready < 0 && errno == EINTR)) return absl::OkStatus();
    if (ready < 0) return Failure();
    return absl::DeadlineExceededError("no answer in time");
  }

  const int socket_;
  const absl::Time deadline_;
};

// The value of a header within `head`, whose lines end in \r\n; empty where there is none.
absl::string_view HeaderOf(absl::string_view head, absl::string_view name) {
  for (absl::string_view line : absl::StrSplit(head, "\r\n")) {
    if (line.size() > name.size() && line[name.size()] == ':' && absl::StartsWithIgnoreCase(line, name)) {
      return absl::StripAsciiWhitespace(line.substr(name.size() + 1));
    }
  }
  return "";
}

absl::StatusOr<HttpAnswer> ReadAnswer(Connection& connection) {
  std::string bytes;
  size_t head = std::string::npos;
  while ((head = bytes.find("\r\n\r\n")) == std::string::npos) {
    ASSIGN_OR_RETURN(const bool more, connection.Read(bytes));
    if (!more || bytes.size() > kAnswerBytesMax) return absl::DataLossError("the answer is no HTTP");
  }
  HttpAnswer answer;
  const absl::string_view lines = absl::string_view(bytes).substr(0, head);
  const bool is_http = absl::StartsWith(lines, "HTTP/1.") && lines.size() >= 12;
  if (!is_http || !absl::SimpleAtoi(lines.substr(9, 3), &answer.status)) {
    return absl::DataLossError("the answer is no HTTP");
  }
  if (!HeaderOf(lines, "Transfer-Encoding").empty()) return answer;
  size_t size = kAnswerBytesMax;
  const absl::string_view length = HeaderOf(lines, "Content-Length");
  if (!length.empty() && !absl::SimpleAtoi(length, &size)) return absl::DataLossError("the answer is no HTTP");
  size = std::min(size, kAnswerBytesMax);
  for (bool more = true; more && bytes.size() < head + 4 + size;) {
    ASSIGN_OR_RETURN(more, connection.Read(bytes));
  }
  answer.body = bytes.substr(head + 4, size);
  return answer;
}

absl::StatusOr<HttpAnswer> PostTo(const addrinfo& to, absl::string_view request, absl::Time deadline) {
  const int socket = ::socket(to.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (socket < 0) return absl::UnavailableError(std::strerror(errno));
  Connection connection(socket, deadline);
  RETURN_IF_ERROR(connection.Connect(to));
  RETURN_IF_ERROR(connection.Write(request));
  return ReadAnswer(connection);
}

}  // namespace

absl::StatusOr<HttpUrl> ParseHttpUrl(absl::string_view text) {
  const auto wrong = [text](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' ", why));
  };
  absl::string_view rest = text;
  if (!absl::ConsumePrefix(&rest, "http://")) return wrong("does not begin with http://");
  const bool plain = std::all_of(rest.begin(), rest.end(), [](char c) { return c > ' ' && c < 0x7f; });
  if (!plain || rest.find_first_of("@?#\"<>\\^`{|}") != absl::string_view::npos) {
    return wrong("must be http://HOST:PORT, with a path at most");
  }
  const size_t slash = rest.find('/');
  HttpUrl url;
  url.path = std::string(slash == absl::string_view::npos ? "/" : rest.substr(slash));
  absl::string_view authority = rest.substr(0, slash);
  absl::string_view host = authority, port = "80";
  const size_t colon = authority.rfind(':'), bracket = authority.rfind(']');
  if (colon != absl::string_view::npos && (bracket == absl::string_view::npos || colon > bracket)) {
    host = authority.substr(0, colon);
    port = authority.substr(colon + 1);
  }
  if (absl::ConsumePrefix(&host, "[") && !absl::ConsumeSuffix(&host, "]")) return wrong("has half a bracket");
  int number = 0;
  if (host.empty()) return wrong("names no host");
  if (!absl::SimpleAtoi(port, &number) || number < 1 || number > 65535) return wrong("has no port in [1, 65535]");
  url.host = std::string(host);
  url.port = absl::StrCat(number);
  return url;
}

absl::StatusOr<HttpAnswer> HttpPost(const HttpUrl& url, const std::vector<std::pair<std::string, std::string>>& headers,
                                    absl::string_view body, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  const bool v6 = url.host.find(':') != std::string::npos;
  std::string request = absl::StrCat("POST ", url.path, " HTTP/1.1\r\nHost: ", v6 ? "[" : "", url.host, v6 ? "]" : "",
                                     ":", url.port, "\r\nConnection: close\r\nContent-Length: ", body.size(), "\r\n");
  for (const auto& [name, value] : headers) absl::StrAppend(&request, name, ": ", value, "\r\n");
  absl::StrAppend(&request, "\r\n", body);

  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(url.host.c_str(), url.port.c_str(), &hints, &found); error != 0) {
    return absl::UnavailableError(absl::StrCat(url.host, ": ", ::gai_strerror(error)));
  }
  absl::StatusOr<HttpAnswer> answer = absl::UnavailableError(absl::StrCat(url.host, ": no address"));
  for (const addrinfo* to = found; to != nullptr; to = to->ai_next) {
    answer = PostTo(*to, request, deadline);
    if (answer.ok() || absl::Now() >= deadline) break;
  }
  ::freeaddrinfo(found);
  return answer;
}

}  // namespace conclave
