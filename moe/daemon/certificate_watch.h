// A certificate renewed under a running process: taken where it is good, left alone and complained of where not.
#ifndef CONCLAVE_MOE_DAEMON_CERTIFICATE_WATCH_H_
#define CONCLAVE_MOE_DAEMON_CERTIFICATE_WATCH_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "moe/daemon/file_watch.h"
#include "moe/metrics/metrics.h"

namespace conclave {

// Where a certificate is shown, and in which files it and what belongs to it are.
struct CertificateFiles {
  std::string use;          // "grpc", "http" or "client": the label `use` of the metrics
  std::string certificate;  // a PEM file; empty: none is shown
  std::vector<std::string> others;
};

// Counts what became of changed files, and says when the certificate in use expires.
class CertificateWatch {
 public:
  // Takes note of the files; nothing is looked at before Start. metrics: must outlive it; null: nobody is told.
  CertificateWatch(const CertificateFiles& files, Metrics* metrics);

  // From now on, within seconds of a change, `take` puts the files to use, on the watch's thread; where it cannot, it
  // says why, and leaves what is in use. To be called once, when the files as they were are in use.
  void Start(std::function<absl::Status()> take);

 private:
  void TellExpiry();

  const CertificateFiles files_;
  Counter* taken_ = nullptr;
  Counter* refused_ = nullptr;
  Gauge* expiry_ = nullptr;
  std::function<absl::Status()> take_;
  FileWatch watch_;  // last: its thread uses the others
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_CERTIFICATE_WATCH_H_
