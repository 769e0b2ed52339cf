// What the connections of one server share. Private to the server.
#ifndef CONCLAVE_GATEWAY_HTTP_SERVER_CORE_H_
#define CONCLAVE_GATEWAY_HTTP_SERVER_CORE_H_

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/http/exchange.h"
#include "gateway/http/http_options.h"
#include "gateway/http/tls_context.h"

namespace conclave {

class Connection;

// Bodies and heads that wait in memory, of all connections together. Thread-safe.
class ByteBudget {
 public:
  explicit ByteBudget(int64_t bytes_max) : bytes_max_(bytes_max) {}
  bool Take(int64_t bytes) {
    if (taken_.fetch_add(bytes) + bytes <= bytes_max_) return true;
    taken_.fetch_sub(bytes);
    return false;
  }
  void GiveBack(int64_t bytes) { taken_.fetch_sub(bytes); }
  int64_t taken() const { return taken_.load(); }

 private:
  const int64_t bytes_max_;
  std::atomic<int64_t> taken_{0};
};

// Owned by the server and by each connection together, so that an answer that ends late still finds it.
struct ServerCore {
  ServerCore(const HttpOptions& http_options, HttpHandler& http_handler)
      : options(http_options), handler(http_handler), budget(http_options.buffered_bytes_max) {}

  const HttpOptions options;
  HttpHandler& handler;
  boost::asio::io_context io;
  std::unique_ptr<boost::asio::thread_pool> workers;  // from the server's Start on
  std::unique_ptr<TlsContexts> tls;                   // null: plain HTTP
  ByteBudget budget;
  std::atomic<bool> draining{false};

  // Who is connected.
  mutable absl::Mutex mutex;
  absl::flat_hash_map<Connection*, std::weak_ptr<Connection>> connections ABSL_GUARDED_BY(mutex);
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_SERVER_CORE_H_
