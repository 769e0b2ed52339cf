// A random story of a simulated cluster: who dies, hangs, crawls, loses and lies when, and for how long.
#ifndef CONCLAVE_ROUTER_SERVICE_SIMULATION_SIM_FAULTS_H_
#define CONCLAVE_ROUTER_SERVICE_SIMULATION_SIM_FAULTS_H_

#include "absl/time/time.h"
#include "router_service/simulation/sim_transport.h"
#include "router_service/simulation/sim_world.h"

namespace conclave {

// Puts `count` random faults into the world's future, each of which begins and ends before `healed_at`, when every
// shard is alive and well. Both must outlive the world's events.
void ScheduleFaults(SimWorld& world, SimTransport& transport, int count, absl::Duration healed_at);

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SIMULATION_SIM_FAULTS_H_
