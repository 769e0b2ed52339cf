// The server's side of TLS from files. Private to the server: it brings Asio with it.
#ifndef CONCLAVE_GATEWAY_HTTP_TLS_CONTEXT_H_
#define CONCLAVE_GATEWAY_HTTP_TLS_CONTEXT_H_

#include <boost/asio/ssl/context.hpp>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "gateway/http/http_options.h"
#include "moe/daemon/certificate_watch.h"
#include "moe/metrics/metrics.h"

namespace conclave {

// What new connections are given: made again when its files change. Thread-safe.
class TlsContexts {
 public:
  using Context = boost::asio::ssl::context;

  // TLS 1.2 and later with options.tls_cert and options.tls_key; with options.tls_client_ca clients must show a
  // certificate that it has signed. Null: no certificate is given, so plain HTTP. INVALID_ARGUMENT names the flag whose
  // file cannot be used, and says why. metrics: must outlive it, or null.
  static absl::StatusOr<std::unique_ptr<TlsContexts>> Create(const HttpOptions& options, Metrics* metrics);

  std::shared_ptr<Context> current() const {
    absl::MutexLock lock(&mutex_);
    return context_;
  }
  // From now on files that change are taken within seconds, or complained of and left alone.
  void Follow();

 private:
  TlsContexts(const HttpOptions& options, Metrics* metrics);
  absl::Status Take();

  const HttpOptions options_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<Context> context_ ABSL_GUARDED_BY(mutex_);
  CertificateWatch watch_;  // last: its thread uses the others
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_TLS_CONTEXT_H_
