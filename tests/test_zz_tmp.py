import asyncio, pytest
from tests.test_gate_simulated import *
@pytest.mark.parametrize("limit,win,share,tells,lat,pattern,seed",[(l,wi,s,t,la,p,sd) for l,wi,s in((100,10.,30),(200,2.,60)) for t in (True,False) for la in (usual,with_slow_tail) for p in("even","bursts","random") for sd in (1,)])
async def test_o(clock,limit,win,share,tells,lat,pattern,seed):
    server=SimulatedServer(limit=limit,window_s=win,tells=tells)
    gate=make_gate(clock,requests=limit,window_s=win,workers=64)
    theirs=[0,0]; r=Random(seed)
    async def other():
        await asyncio.sleep(3.0*seed)
        while True:
            for _ in range(share if pattern=="bursts" else 1):
                b=server.refused; server.arrive(loop_time()); theirs[server.refused-b]+=1
            m=win/share
            await asyncio.sleep(win if pattern=="bursts" else r.expovariate(1/m) if pattern=="random" else m)
    T=60*win
    await keep_busy(gate,server,for_s=T,beside=other(),latency=lat,workers=64)
    print("\nRES",limit,win,tells,lat.__name__,pattern,"our429",server.refused-theirs[1],"their",theirs,"ours",len(server.ours),"of",(limit-share)*T/win)
