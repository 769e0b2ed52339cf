#include "gateway/http/server.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gateway/http/connection.h"
#include "gateway/http/server_core.h"
#include "gateway/http/tls_context.h"
#include "moe/base/log.h"
#include "moe/daemon/listen_address.h"

namespace conclave {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using tcp = asio::ip::tcp;

// Beyond the limit on connections so many are told so; others are closed without a word.
constexpr int kRefusedConnectionsMax = 64;
constexpr std::chrono::milliseconds kAcceptPause{100};

absl::StatusOr<tcp::endpoint> Resolve(asio::io_context& io, const std::string& address) {
  const absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  if (!parsed.ok()) return absl::InvalidArgumentError(absl::StrCat("--http-address: ", parsed.status().message()));
  error_code error;
  const auto found = tcp::resolver(io).resolve(parsed->host, absl::StrCat(parsed->port), tcp::resolver::passive, error);
  if (!error && !found.empty()) return found.begin()->endpoint();
  return absl::InvalidArgumentError(
      absl::StrCat("--http-address: no address is known for '", parsed->host, "': ", error.message()));
}

class HttpServerImpl final : public HttpServer {
 public:
  HttpServerImpl(const HttpOptions& options, HttpHandler& handler)
      : core_(std::make_shared<ServerCore>(options, handler)),
        acceptor_(asio::make_strand(core_->io)),
        pause_(acceptor_.get_executor()) {}

  ~HttpServerImpl() override {
    StopAccepting();
    for (const auto& connection : Connections()) connection->Abort();
    guard_.reset();
    for (std::thread& thread : threads_) thread.join();
    if (core_->workers != nullptr) core_->workers->join();
    // What workers asked of the sockets in the meantime.
    core_->io.restart();
    core_->io.run();
  }

  absl::Status Bind(Metrics* metrics) {
    auto tls = TlsContexts::Create(core_->options, metrics);
    if (!tls.ok()) return tls.status();
    core_->tls = *std::move(tls);
    const std::string& address = core_->options.address;
    const absl::StatusOr<tcp::endpoint> endpoint = Resolve(core_->io, address);
    if (!endpoint.ok()) return endpoint.status();
    error_code error;
    acceptor_.open(endpoint->protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(*endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) return ExplainListenFailure(address, "http-address");
    address_ = JoinHostPort(ParseHostPort(address)->host, acceptor_.local_endpoint(error).port());
    return absl::OkStatus();
  }

  void Start() override {
    if (core_->tls != nullptr) core_->tls->Follow();
    core_->workers = std::make_unique<asio::thread_pool>(static_cast<size_t>(core_->options.workers));
    guard_.emplace(core_->io.get_executor());
    asio::post(acceptor_.get_executor(), [this] { Accept(); });
    for (int i = 0; i < core_->options.io_threads; ++i) {
      threads_.emplace_back([core = core_] { core->io.run(); });
    }
  }

  std::string address() const override { return address_; }
  int connections() const override {
    absl::MutexLock lock(&core_->mutex);
    return static_cast<int>(core_->connections.size());
  }

  bool Drain(absl::Time deadline) override {
    core_->draining.store(true);
    StopAccepting();
    for (const auto& connection : Connections()) connection->BeginDrain();
    absl::MutexLock lock(&core_->mutex);
    return core_->mutex.AwaitWithDeadline(
        absl::Condition(
            +[](ServerCore* core) ABSL_NO_THREAD_SAFETY_ANALYSIS { return core->connections.empty(); }, core_.get()),
        deadline);
  }

 private:
  void StopAccepting() {
    asio::post(acceptor_.get_executor(), [this] {
      error_code ignored;
      acceptor_.close(ignored);
      pause_.cancel();
    });
  }

  std::vector<std::shared_ptr<Connection>> Connections() const {
    std::vector<std::shared_ptr<Connection>> found;
    absl::MutexLock lock(&core_->mutex);
    for (const auto& [pointer, connection] : core_->connections) {
      if (auto locked = connection.lock()) found.push_back(std::move(locked));
    }
    return found;
  }

  // A strand of its own keeps each connection's calls apart.
  void Accept() {
    acceptor_.async_accept(asio::make_strand(core_->io), [this](const error_code& error, tcp::socket socket) {
      if (error == asio::error::operation_aborted || !acceptor_.is_open()) return;
      if (error) {
        // Out of descriptors, mostly: those in use come back as connections end.
        LogWarning(absl::StrCat("http: cannot accept a connection: ", error.message()));
        pause_.expires_after(kAcceptPause);
        pause_.async_wait([this](const error_code& stopped) {
          if (!stopped) Accept();
        });
        return;
      }
      Take(std::move(socket));
      Accept();
    });
  }

  void Take(tcp::socket socket) {
    const auto executor = socket.get_executor();
    auto connection = std::make_shared<Connection>(core_, std::move(socket));
    int open = 0;
    {
      absl::MutexLock lock(&core_->mutex);
      core_->connections[connection.get()] = connection;
      open = static_cast<int>(core_->connections.size());
    }
    const int max = core_->options.connections_max;
    if (open > max + kRefusedConnectionsMax) return;
    asio::post(executor, [connection = std::move(connection), refused = open > max] {
      refused ? connection->StartRefusing() : connection->Start();
    });
  }

  const std::shared_ptr<ServerCore> core_;
  tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  std::string address_;
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> guard_;
  std::vector<std::thread> threads_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Listen(const HttpOptions& options, HttpHandler& handler,
                                                               Metrics* metrics) {
  auto server = std::make_unique<HttpServerImpl>(options, handler);
  if (const absl::Status status = server->Bind(metrics); !status.ok()) return status;
  return server;
}

}  // namespace conclave
