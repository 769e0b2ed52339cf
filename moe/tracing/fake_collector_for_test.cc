#include "moe/tracing/fake_collector_for_test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

namespace conclave {

FakeCollector::FakeCollector() : response_("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") {
  listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in local{};
  local.sin_family = AF_INET;
  local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(local);
  if (::bind(listener_, reinterpret_cast<sockaddr*>(&local), size) != 0 || ::listen(listener_, 16) != 0) std::abort();
  ::getsockname(listener_, reinterpret_cast<sockaddr*>(&local), &size);
  port_ = ntohs(local.sin_port);
  thread_ = std::thread([this] { Run(); });
}

FakeCollector::~FakeCollector() {
  ::shutdown(listener_, SHUT_RDWR);
  thread_.join();
  ::close(listener_);
}

std::string FakeCollector::address() const { return "127.0.0.1:" + std::to_string(port_); }

void FakeCollector::Answer(std::string response) {
  std::lock_guard<std::mutex> lock(mutex_);
  response_ = std::move(response);
}

std::vector<nlohmann::json> FakeCollector::spans() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<nlohmann::json> all;
  for (const std::string& body : bodies_) {
    const auto request = nlohmann::json::parse(body);
    for (const auto& span : request["resourceSpans"][0]["scopeSpans"][0]["spans"]) all.push_back(span);
  }
  return all;
}

std::vector<std::string> FakeCollector::heads() {
  std::lock_guard<std::mutex> lock(mutex_);
  return heads_;
}

void FakeCollector::Run() {
  while (true) {
    const int connection = ::accept(listener_, nullptr, nullptr);
    if (connection < 0) return;
    Serve(connection);
    ::close(connection);
  }
}

void FakeCollector::Serve(int connection) {
  std::string bytes;
  char buffer[4096];
  size_t head = std::string::npos, wanted = std::string::npos;
  while (head == std::string::npos || bytes.size() < wanted) {
    const ssize_t got = ::recv(connection, buffer, sizeof(buffer), 0);
    if (got <= 0) return;
    bytes.append(buffer, static_cast<size_t>(got));
    head = bytes.find("\r\n\r\n");
    if (head == std::string::npos) continue;
    wanted = head + 4 + static_cast<size_t>(std::atoi(bytes.c_str() + bytes.find("Content-Length: ") + 16));
  }
  std::string response;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    heads_.push_back(bytes.substr(0, head + 4));
    bodies_.push_back(bytes.substr(head + 4));
    response = response_;
  }
  (void)!::send(connection, response.data(), response.size(), MSG_NOSIGNAL);
}

}  // namespace conclave
