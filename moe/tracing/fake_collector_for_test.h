// A collector of traces that answers as a test says. For tests only.
#ifndef CONCLAVE_MOE_TRACING_FAKE_COLLECTOR_FOR_TEST_H_
#define CONCLAVE_MOE_TRACING_FAKE_COLLECTOR_FOR_TEST_H_

#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

namespace conclave {

// Listens on a loopback port; one connection at a time, one request each. Thread-safe.
class FakeCollector {
 public:
  FakeCollector();
  ~FakeCollector();

  std::string address() const;  // host:port
  // What is answered from now on: the whole response, or nothing at all where empty (the connection closes).
  void Answer(std::string response);
  // All spans of all bodies, in order of arrival.
  std::vector<nlohmann::json> spans();
  // The head of each request.
  std::vector<std::string> heads();

 private:
  void Run();
  void Serve(int connection);

  int listener_ = -1;
  int port_ = 0;
  std::mutex mutex_;
  std::string response_;                     // guarded by mutex_
  std::vector<std::string> heads_, bodies_;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRACING_FAKE_COLLECTOR_FOR_TEST_H_
